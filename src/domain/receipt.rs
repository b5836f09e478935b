//! Receipts: what stands for one delivery of a message.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use serde::{Serialize, Serializer};
use sha2::Sha256;

use super::SessionKey;

/// Bytes of the signature that are kept: enough that nobody guesses one.
const SIGNATURE: usize = 12;
/// The layout, for the day when there is another.
const VERSION: u8 = 3;
/// Version, queue, message, delivery and its stamp.
const PAYLOAD: usize = 1 + 8 + 8 + 4 + 4;
/// Characters of a receipt: base64 writes six bits in each.
const WRITTEN: usize = ((PAYLOAD + SIGNATURE) * 4).div_ceil(3);

/// One delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryId {
    /// The message.
    pub msg_id: i64,
    /// The number of the delivery.
    pub read_ct: i32,
    /// The queue that the message stands in: when it was made, in microseconds since 1970, give or take what tells it
    /// from others of that moment. One that is dropped and made anew has another; one that is restored from a dump has
    /// the same. Of a table that PGMQ does not list it is below 0, and says its name.
    pub queue_id: i64,
    /// What tells the delivery from another with the same number, which there is once it was taken back: bits
    /// of its time, 0 where that is not known.
    pub read_stamp: u32,
}

impl DeliveryId {
    /// The stamp of a delivery at that time.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the last bits are those that differ"
    )]
    pub fn stamp_of(last_read_at: Option<DateTime<Utc>>) -> u32 {
        last_read_at.map_or(0, |time| time.timestamp_micros() as u32)
    }

    /// The stamp as SQL compares it; nothing where it is not known.
    pub fn stamp(self) -> Option<i64> {
        Some(self.read_stamp.into()).filter(|stamp| *stamp != 0)
    }
}

/// An opaque, URL-safe string that stands for one delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Receipt([u8; PAYLOAD + SIGNATURE]);

/// A string that is no receipt of this gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a receipt that was given out here")]
pub struct InvalidReceipt;

/// The key with which receipts are signed; the same for all gateways on a database.
#[derive(Clone)]
pub struct ReceiptKey(Hmac<Sha256>);

impl ReceiptKey {
    /// A key from secret bytes.
    pub fn new(secret: &[u8]) -> Self {
        // A key of any length is fine: HMAC hashes what is too long and pads what is short.
        let mac = Hmac::new_from_slice(secret).unwrap_or_else(|_| unreachable!("any length"));
        Self(mac)
    }

    /// The key of log-ins, which is one of its own.
    pub fn session_key(&self) -> SessionKey {
        let mut mac = self.0.clone();
        // No receipt is signed like this: it has another length.
        mac.update(b"pgmq_gateway dashboard sessions");
        SessionKey::new(&mac.finalize().into_bytes())
    }

    /// The receipt of a delivery.
    pub fn sign(&self, delivered: &DeliveryId) -> Receipt {
        let mut bytes = [0; PAYLOAD + SIGNATURE];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&delivered.queue_id.to_be_bytes());
        bytes[9..17].copy_from_slice(&delivered.msg_id.to_be_bytes());
        bytes[17..21].copy_from_slice(&delivered.read_ct.to_be_bytes());
        bytes[21..PAYLOAD].copy_from_slice(&delivered.read_stamp.to_be_bytes());
        let mut mac = self.0.clone();
        mac.update(&bytes[..PAYLOAD]);
        let signature = mac.finalize().into_bytes();
        bytes[PAYLOAD..].copy_from_slice(&signature[..SIGNATURE]);
        Receipt(bytes)
    }

    /// Reads a receipt; refuses one that was not signed with this key. Takes the same time wherever
    /// it differs.
    pub fn verify(&self, text: &str) -> Result<DeliveryId, InvalidReceipt> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidReceipt)?;
        let bytes: [u8; PAYLOAD + SIGNATURE] = bytes.try_into().map_err(|_| InvalidReceipt)?;
        let mut mac = self.0.clone();
        mac.update(&bytes[..PAYLOAD]);
        mac.verify_truncated_left(&bytes[PAYLOAD..]).map_err(|_| InvalidReceipt)?;
        let [version, payload @ ..] = bytes;
        if version != VERSION {
            return Err(InvalidReceipt);
        }
        let number = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&payload[from..from + 8]);
            i64::from_be_bytes(number)
        };
        Ok(DeliveryId {
            queue_id: number(0),
            msg_id: number(8),
            read_ct: i32::from_be_bytes([payload[16], payload[17], payload[18], payload[19]]),
            read_stamp: u32::from_be_bytes([payload[20], payload[21], payload[22], payload[23]]),
        })
    }
}

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiptKey")
    }
}

impl Receipt {
    /// Hands over the receipt as it is written, without a string of its own.
    fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let mut text = [0; WRITTEN];
        let written = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        match written.ok().and_then(|length| str::from_utf8(&text[..length]).ok()) {
            Some(text) => take(text),
            None => unreachable!("base64 is ASCII, and there is room for all of it"),
        }
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| out.serialize_str(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_other_bit_makes_it_invalid() {
        let key = ReceiptKey::new(b"secret");
        for bit in 0..(PAYLOAD + SIGNATURE) * 8 {
            let mut receipt =
                key.sign(&DeliveryId { msg_id: 42, read_ct: 1, queue_id: 7, read_stamp: 5 });
            receipt.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(&receipt.to_string()), Err(InvalidReceipt), "{bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_can_be_read(
            msg_id in 1i64.., read_ct in 0i32.., queue_id in any::<i64>(), read_stamp in any::<u32>()
        ) {
            let key = ReceiptKey::new(b"secret");
            let delivered = DeliveryId { msg_id, read_ct, queue_id, read_stamp };
            let text = key.sign(&delivered).to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            prop_assert_eq!(key.verify(&text), Ok(delivered));
            prop_assert_eq!(ReceiptKey::new(b"other").verify(&text), Err(InvalidReceipt));
        }

        #[test]
        fn one_other_character_makes_it_invalid(at in 0usize..44, other in "[A-Za-z0-9_=+/ \u{e9}-]") {
            let key = ReceiptKey::new(b"secret");
            let text = key.sign(&DeliveryId { msg_id: 42, read_ct: 1, queue_id: 7, read_stamp: 5 }).to_string();
            prop_assume!(!text[at..].starts_with(&other));
            let forged = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            prop_assert_eq!(key.verify(&forged), Err(InvalidReceipt), "{}", forged);
            prop_assert_eq!(key.verify(&text[..at]), Err(InvalidReceipt));
            prop_assert_eq!(key.verify(&(text + &other)), Err(InvalidReceipt));
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            prop_assert_eq!(ReceiptKey::new(b"").verify(&text), Err(InvalidReceipt));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = URL_SAFE_NO_PAD.encode(bytes);
            prop_assert_eq!(ReceiptKey::new(b"secret").verify(&text), Err(InvalidReceipt));
        }
    }
}
