//! Serves HTTP to many clients in one thread: mio says who is ready, hyper reads and writes HTTP, and nobody waits for anybody.
//!
//! Each connection is a future that is polled when its socket is ready. Clients are bounded in number, and each in time: whoever
//! has not completed a request, or not taken the answer, within [`PATIENCE`] is dropped, and so is, when there is no room, who has come
//! least far.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, Ready, ready};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::local_clock::LocalClock;
use crate::time::{LocalTime, Span};

use super::answers::Answers;

/// Clients at the same time: some Prometheus servers, and more pages than anybody has open. Each costs 20 KiB, and its answer.
const CLIENTS: usize = 128;
/// Time for a request to be complete and for its answer to be taken, counted anew from each request: a page asks once a second,
/// Prometheus once a minute at least.
const PATIENCE: Span = Span::from_secs(75);
/// No browser sends longer ones, cookies of other programs on this machine included.
const HEADER_LIMIT: usize = 16 << 10;

const LISTENER: Token = Token(0);
const SIGNALS: Token = Token(1);
const FIRST_CLIENT: usize = 2;

/// A listening socket and those who are served.
pub(super) struct Server {
    poll: mio::Poll,
    listener: TcpListener,
    signals: Signals,
    clock: LocalClock,
    answers: Arc<Answers>,
    clients: BTreeMap<Token, Client>,
    next_token: usize,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

struct Client {
    connection: http1::Connection<Stream, Responder>,
    /// Requests that were complete.
    requests: Rc<Cell<u64>>,
    requests_before: u64,
    deadline: LocalTime,
}

impl Server {
    /// # Errors
    /// The system refuses to watch the sockets or signals.
    pub(super) fn new(listener: StdTcpListener, clock: LocalClock, answers: Answers) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (poll, mut listener) = (mio::Poll::new()?, TcpListener::from_std(listener));
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        let (answers, clients) = (Arc::new(answers), BTreeMap::new());
        Ok(Self { poll, listener, signals, clock, answers, clients, next_token: FIRST_CLIENT })
    }

    /// Serves until a signal says that it is enough.
    ///
    /// # Errors
    /// The system refuses to wait.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(CLIENTS);
        loop {
            let next = self.clients.values().map(|client| client.deadline).min();
            let timeout = next.map(|next| (next - self.clock.now()).to_std());
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
            for token in events.iter().map(mio::event::Event::token) {
                match token {
                    LISTENER => self.welcome(),
                    SIGNALS if self.signals.pending().next().is_some() => return Ok(()),
                    token => self.serve(token),
                }
            }
            let now = self.clock.now();
            self.clients.retain(|_, client| client.deadline > now);
        }
    }

    /// Takes in all who wait for it.
    fn welcome(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => {
                }
                // Drained, or out of descriptors, which CLIENTS is there to prevent.
                Err(_) => return,
            }
        }
    }

    fn take_in(&mut self, mut stream: TcpStream) {
        let (token, is_loopback) = (Token(self.next_token), is_loopback(&stream));
        self.next_token += 1;
        if self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).is_err() {
            return;
        }
        if self.clients.len() >= CLIENTS {
            let last = self.clients.iter().min_by_key(|(_, client)| client.deadline).map(|(token, _)| *token);
            last.and_then(|token| self.clients.remove(&token));
        }
        let requests = Rc::new(Cell::new(0));
        let responder = Responder { answers: Arc::clone(&self.answers), requests: Rc::clone(&requests), is_loopback };
        let mut builder = http1::Builder::new();
        // Deadlines are ours: hyper has no timer here.
        builder.max_header_size(HEADER_LIMIT).header_read_timeout(None);
        let connection = builder.serve_connection(Stream(stream), responder);
        let deadline = self.clock.now() + PATIENCE;
        self.clients.insert(token, Client { connection, requests, requests_before: 0, deadline });
        self.serve(token);
    }

    /// Lets a client's connection go on as far as it can; drops it when it has come to its end.
    fn serve(&mut self, token: Token) {
        let now = self.clock.now();
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let is_over = client.go_on();
        if client.requests.get() != client.requests_before {
            (client.requests_before, client.deadline) = (client.requests.get(), now + PATIENCE);
        }
        if is_over {
            self.clients.remove(&token);
        }
    }
}

/// Whether this end of the connection is on the loopback interface.
fn is_loopback(stream: &TcpStream) -> bool {
    stream.local_addr().is_ok_and(|address| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
    })
}

impl Client {
    /// True when the connection has ended, well or not.
    fn go_on(&mut self) -> bool {
        let again = Arc::new(Again(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&again));
        // Who has more to do than is good for the others says so and is asked again.
        while again.0.swap(false, Ordering::Relaxed) {
            if Pin::new(&mut self.connection).poll(&mut Context::from_waker(&waker)).is_ready() {
                return true;
            }
        }
        false
    }
}

/// A connection wants to be polled again, without anything to wait for.
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers a client's requests at once: all there is to know is in memory.
struct Responder {
    answers: Arc<Answers>,
    requests: Rc<Cell<u64>>,
    is_loopback: bool,
}

impl Service<Request<Incoming>> for Responder {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.requests.set(self.requests.get() + 1);
        ready(Ok(self.answers.to(&request, self.is_loopback)))
    }
}

/// A socket as hyper wants it: what would block is asked for again when mio says that it is ready.
struct Stream(TcpStream);

fn pending<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// Again, when a signal came in between.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // hyper's buffer is not initialised, and only unsafe code may read into it.
        let mut bytes = [0; 4096];
        let length = bytes.len().min(buffer.remaining());
        let read = uninterrupted(|| self.0.read(bytes.get_mut(..length).unwrap_or_default()));
        pending(read.map(|read| buffer.put_slice(bytes.get(..read).unwrap_or_default())))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        pending(uninterrupted(|| self.0.write(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever has gone first needs no goodbye.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
