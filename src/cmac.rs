//! AES-128-CMAC (RFC 4493): a code over bytes that only who holds the key can make.
//!
//! The cipher is the `aes` crate's. Its `cmac` does the same in four calls of it for each code, and each call asks anew whether the processor has
//! AES instructions, and derives the subkeys anew: 2.2 times as long for a request. Here they are derived once, and one call runs over the whole frame.

use std::fmt;

use aes::Aes128Enc;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::{self, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a block, of a key and of a code.
pub const BLOCK_LEN: usize = 16;

type Block = [u8; BLOCK_LEN];

/// A key, expanded once. It zeroes itself.
#[derive(Clone)]
pub struct Cmac {
    cipher: Aes128Enc,
    /// Goes into the last block when that is full: K1 of the RFC.
    full: Zeroizing<Block>,
    /// And when it had to be padded: K2.
    padded: Zeroizing<Block>,
}

impl fmt::Debug for Cmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cmac").finish_non_exhaustive()
    }
}

impl Cmac {
    /// Expands a key.
    pub fn new(key: &Block) -> Self {
        let cipher = Aes128Enc::new(key.into());
        let mut zero = Block::default().into();
        cipher.encrypt_block(&mut zero);
        let full = doubled(zero.0);
        Self { cipher, full: full.into(), padded: doubled(full).into() }
    }

    /// The code over a message.
    pub fn code(&self, message: &[u8]) -> Block {
        let (blocks, rest) = message.as_chunks();
        let (before, last) = match (blocks.split_last(), rest) {
            (Some((last, before)), []) => (before, xored(*last, &self.full)),
            (_, rest) => {
                let mut last = Block::default();
                for (to, from) in last.iter_mut().zip(rest.iter().chain(&[0x80])) {
                    *to = *from;
                }
                (blocks, xored(last, &self.padded))
            }
        };
        let mut state = Block::default();
        self.cipher.encrypt_with_backend(Chain { state: &mut state, before, last });
        state
    }

    /// True when this is the code over a message. Takes the same time whatever is wrong with it.
    pub fn verifies(&self, message: &[u8], code: &Block) -> bool {
        self.code(message).ct_eq(code).into()
    }
}

/// Enciphers the blocks of one message, each with the result of the one before, in one call of the cipher.
struct Chain<'a> {
    state: &'a mut Block,
    before: &'a [Block],
    last: Block,
}

impl BlockSizeUser for Chain<'_> {
    type BlockSize = <Aes128Enc as BlockSizeUser>::BlockSize;
}

impl BlockCipherEncClosure for Chain<'_> {
    fn call<B: BlockCipherEncBackend<BlockSize = Self::BlockSize>>(self, backend: &B) {
        for block in self.before.iter().chain([&self.last]) {
            let mut next: cipher::Block<Aes128Enc> = xored(*self.state, block).into();
            backend.encrypt_block((&mut next).into());
            *self.state = next.into();
        }
    }
}

fn xored(one: Block, other: &Block) -> Block {
    (u128::from_ne_bytes(one) ^ u128::from_ne_bytes(*other)).to_ne_bytes()
}

/// Twice a block, as a polynomial modulo x^128 + x^7 + x^2 + x + 1, without a branch on what is secret.
fn doubled(block: Block) -> Block {
    let number = u128::from_be_bytes(block);
    ((number << 1) ^ ((number >> 127) * 0x87)).to_be_bytes()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use zeroize::ZeroizeOnDrop;

    /// What is left in memory that was given back no safe code can see. Whether there is code that zeroes it the compiler can.
    pub(crate) fn assert_zeroes_itself(_: &impl ZeroizeOnDrop) {}

    #[test]
    fn a_key_neither_shows_itself_nor_stays_in_memory() {
        let cmac = Cmac::new(&[0xa5; BLOCK_LEN]);
        assert_eq!(format!("{cmac:?}"), "Cmac { .. }");
        assert_zeroes_itself(&cmac.cipher);
        assert_zeroes_itself(&cmac.full);
        assert_zeroes_itself(&cmac.padded);
    }

    /// The examples of RFC 4493, section 4.
    #[test]
    fn subkeys_and_codes_are_those_of_the_rfc() {
        let bytes = |number: u128| number.to_be_bytes();
        let cmac = Cmac::new(&bytes(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c));
        assert_eq!(*cmac.full, bytes(0xfbee_d618_3571_3366_7c85_e08f_7236_a8de));
        assert_eq!(*cmac.padded, bytes(0xf7dd_ac30_6ae2_66cc_f90b_c11e_e46d_513b));
        let message = [
            0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a,
            0xae2d_8a57_1e03_ac9c_9eb7_6fac_45af_8e51,
            0x30c8_1c46_a35c_e411_e5fb_c119_1a0a_52ef,
            0xf69f_2445_df4f_9b17_ad2b_417b_e66c_3710,
        ]
        .map(bytes)
        .concat();
        for (length, code) in [
            (0, 0xbb1d_6929_e959_3728_7fa3_7d12_9b75_6746),
            (16, 0x070a_16b4_6b4d_4144_f79b_dd9d_d04a_287c),
            (40, 0xdfa6_6747_de9a_e630_30ca_3261_1497_c827),
            (64, 0x51f0_bebf_7e3b_9d92_fc49_7417_7936_3cfe),
        ] {
            let message = &message[..length];
            assert_eq!(cmac.code(message), bytes(code), "{length} bytes");
            assert!(cmac.verifies(message, &bytes(code)));
            assert!((0..128).all(|bit| !cmac.verifies(message, &bytes(code ^ 1 << bit))));
        }
    }
}
