//! HTTP as a client by hand, so that a test can also be slow, rude or wrong: one request a connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A reply that is longer in coming has failed: a browser may take some time to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    pub body: String,
}

/// Sends these bytes and reads to the end of the reply, or of the connection: chromedriver keeps it open whatever is asked.
pub fn exchange(server: SocketAddr, request: &[u8]) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    while !is_whole(&answer) {
        match stream.read(&mut piece)? {
            0 => break,
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Reply { status, head: head.to_lowercase(), body: body.to_owned() })
}

/// Whether all of the body is there that the head tells of.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

/// `method` is asked of `path`, with these further lines in the head.
pub fn ask(server: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {server}\r\n") };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n{body}");
    exchange(server, request.as_bytes()).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

pub fn get(server: SocketAddr, path: &str) -> Reply {
    ask(server, "GET", path, "", "")
}
