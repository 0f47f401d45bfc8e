//! `key=value<NUL>` text of Login and Text PDUs (RFC 7143, section 6.1): reading it, writing it, and the
//! forms a value can have. What a key means is for the negotiation to know.

use std::fmt::{Display, Write as _};

/// Longest key-name, in bytes (RFC 7143, section 6.1).
pub const MAX_KEY_LEN: usize = 63;
/// Longest simple value, in bytes, where the key's definition does not say otherwise (section 6.1).
pub const MAX_VALUE_LEN: usize = 255;

/// Why text is not a sequence of key=value pairs. All of them are the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The last pair does not end in NUL.
    #[error("the last key=value pair does not end in NUL")]
    Unterminated,
    /// There is no "=" in a pair.
    #[error("a key=value pair without '='")]
    NoEqualsSign,
    /// The key-name is longer than 63 bytes.
    #[error("a key-name longer than 63 bytes")]
    KeyTooLong,
    /// The key-name is not a standard-label.
    #[error(
        "a key-name that does not start with a letter or has characters a key-name cannot have"
    )]
    BadKey,
    /// The value is not UTF-8.
    #[error("a value that is not UTF-8")]
    NotUtf8,
}

/// One pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// Key-name: a standard-label.
    pub key: &'a str,
    /// Everything after the first "=".
    pub value: &'a str,
}

/// Iterates over the pairs of one logical-text-data-segment; ends after the first error.
///
/// NULs without a pair before them are passed over: some initiators count the padding in
/// DataSegmentLength.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// The pairs in `text`, which must be the whole logical-text-data-segment.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<Pair<'a>, TextError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.rest.iter().position(|&byte| byte != 0)?;
        let text = self.rest.get(start..)?;
        let Some(end) = text.iter().position(|&byte| byte == 0) else {
            self.rest = &[];
            return Some(Err(TextError::Unterminated));
        };
        let (pair, rest) = text.split_at(end);
        self.rest = rest;
        let pair = split_pair(pair);
        if pair.is_err() {
            self.rest = &[];
        }
        Some(pair)
    }
}

fn split_pair(pair: &[u8]) -> Result<Pair<'_>, TextError> {
    let mut halves = pair.splitn(2, |&byte| byte == b'=');
    let (Some(key), Some(value)) = (halves.next(), halves.next()) else {
        return Err(TextError::NoEqualsSign);
    };
    if key.len() > MAX_KEY_LEN {
        return Err(TextError::KeyTooLong);
    }
    if !is_key(key) {
        return Err(TextError::BadKey);
    }
    Ok(Pair {
        key: std::str::from_utf8(key).map_err(|_| TextError::BadKey)?,
        value: std::str::from_utf8(value).map_err(|_| TextError::NotUtf8)?,
    })
}

/// Standard-label, but for what two of the standard's own keys do: "#" (X#NodeArchitecture, section 13.26)
/// and a small first letter (iSCSIProtocolLevel, section 13.24).
fn is_key(key: &[u8]) -> bool {
    key.first().is_some_and(u8::is_ascii_alphabetic)
        && key
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-+@_#".contains(byte))
}

/// Appends `key=value<NUL>` to `out`.
pub fn write_pair(out: &mut Vec<u8>, key: &str, value: impl Display) {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    write!(Bytes(out), "{key}={value}\0").expect("writing to memory does not fail");
}

/// Appends `key=Yes` or `key=No`.
pub fn write_boolean(out: &mut Vec<u8>, key: &str, value: bool) {
    write_pair(out, key, if value { "Yes" } else { "No" });
}

/// A boolean-value: "Yes" or "No", in this case.
#[must_use]
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A numerical-value: a decimal-constant without leading zeros, or a hex-constant; below 2^64.
#[must_use]
pub fn number(value: &str) -> Option<u64> {
    if let Some(digits) = strip_prefix(value, b'x') {
        // from_str_radix alone would take a sign.
        let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return hex.then(|| u64::from_str_radix(digits, 16).ok())?;
    }
    match value.as_bytes() {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => value.parse().ok(),
        _ => None,
    }
}

/// A numerical-range: two numbers with "~" between, the second not below the first.
#[must_use]
pub fn range(value: &str) -> Option<(u64, u64)> {
    let (low, high) = value.split_once('~')?;
    let (low, high) = (number(low)?, number(high)?);
    (low <= high).then_some((low, high))
}

/// The items of a list-of-values, in the order of preference. An empty value is a list of one empty item.
pub fn list(value: &str) -> std::str::Split<'_, char> {
    value.split(',')
}

/// Why a value is not a binary-value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// Neither "0x" and hexadecimal digits nor "0b" and base64.
    #[error("neither a hex-constant nor a base64-constant")]
    Malformed,
    /// More bytes than there is room for.
    #[error("a binary value longer than its key allows")]
    TooLong,
}

/// Decodes a hex-constant or base64-constant into `out`; gives its implicit byte-length.
///
/// # Errors
/// [`BinaryError`]; `out` may then be partly written.
pub fn binary(value: &str, out: &mut [u8]) -> Result<usize, BinaryError> {
    if let Some(digits) = strip_prefix(value, b'x') {
        hex(digits.as_bytes(), out)
    } else if let Some(text) = strip_prefix(value, b'b') {
        base64(text.as_bytes(), out)
    } else {
        Err(BinaryError::Malformed)
    }
}

/// Appends `bytes` as a hex-constant.
pub fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    out.extend_from_slice(b"0x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// What follows "0" and `letter`, in either case.
fn strip_prefix(value: &str, letter: u8) -> Option<&str> {
    match value.as_bytes() {
        [b'0', second, ..] if second.eq_ignore_ascii_case(&letter) => value.get(2..),
        _ => None,
    }
}

fn hex(digits: &[u8], out: &mut [u8]) -> Result<usize, BinaryError> {
    let len = digits.len().div_ceil(2);
    let out = out.get_mut(..len).ok_or(BinaryError::TooLong)?;
    if digits.is_empty() {
        return Err(BinaryError::Malformed);
    }
    // With an odd number of digits the first one stands alone. From the right, pairs are whole.
    for (byte, pair) in out.iter_mut().rev().zip(digits.rchunks(2)) {
        *byte = 0;
        for &digit in pair {
            let value = char::from(digit)
                .to_digit(16)
                .and_then(|v| u8::try_from(v).ok());
            *byte = *byte << 4 | value.ok_or(BinaryError::Malformed)?;
        }
    }
    Ok(len)
}

/// Base 64 of RFC 4648, section 4; padding may be left out, as some initiators do.
fn base64(text: &[u8], out: &mut [u8]) -> Result<usize, BinaryError> {
    let end = text
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |last| last + 1);
    let (text, pad) = text.split_at(end);
    if text.is_empty() || text.len() % 4 == 1 || pad.len() > super::padding(text.len()) {
        return Err(BinaryError::Malformed);
    }
    let (mut bits, mut held, mut len) = (0u32, 0u32, 0);
    for &byte in text {
        bits = bits << 6 | u32::from(sextet(byte).ok_or(BinaryError::Malformed)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            let [.., byte] = (bits >> held).to_be_bytes();
            *out.get_mut(len).ok_or(BinaryError::TooLong)? = byte;
            len += 1;
        }
    }
    Ok(len)
}

const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &[u8]) -> Vec<Result<Pair<'_>, TextError>> {
        Pairs::new(text).collect()
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        assert_eq!(
            pairs(b"InitiatorName=iqn.1994-05.com.example:a=b\0X-empty=\0"),
            [
                Ok(Pair {
                    key: "InitiatorName",
                    value: "iqn.1994-05.com.example:a=b"
                }),
                Ok(Pair {
                    key: "X-empty",
                    value: ""
                }),
            ]
        );
    }

    #[test]
    fn padding_that_was_counted_as_text_is_passed_over() {
        assert_eq!(pairs(b"A=b\0\0\0").len(), 1);
        assert!(pairs(b"\0\0").is_empty());
        assert!(pairs(b"").is_empty());
    }

    #[test]
    fn each_fault_has_its_name_and_ends_the_text() {
        let long = [&[b'K'; 64][..], b"=1\0"].concat();
        for (text, error) in [
            (&b"Key=1"[..], TextError::Unterminated),
            (b"Key\0B=1\0", TextError::NoEqualsSign),
            (b"=1\0", TextError::BadKey),
            (b"1key=1\0", TextError::BadKey),
            (b"Ke y=1\0", TextError::BadKey),
            (b"K\xc3\xa9=1\0", TextError::BadKey),
            (b"Key=\xff\0B=1\0", TextError::NotUtf8),
            (&long, TextError::KeyTooLong),
        ] {
            assert_eq!(pairs(text), [Err(error)]);
        }
        assert!(pairs(&[&[b'K'; 63][..], b"=1\0"].concat())[0].is_ok());
        assert!(
            pairs(b"X#NodeArchitecture=a\0iSCSIProtocolLevel=2\0")
                .iter()
                .all(Result::is_ok)
        );
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_nothing_else() {
        for (text, value) in [
            ("0", Some(0)),
            ("262144", Some(262_144)),
            ("0x1F", Some(31)),
            ("0X000a", Some(10)),
            ("18446744073709551615", Some(u64::MAX)),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("0x10000000000000000", None),
            ("007", None),
            ("", None),
            ("0x", None),
            ("0x+1", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("1k", None),
        ] {
            assert_eq!(number(text), value, "{text:?}");
        }
    }

    #[test]
    fn ranges_rise() {
        assert_eq!(range("1~0x10"), Some((1, 16)));
        assert_eq!(range("2~2"), Some((2, 2)));
        assert_eq!(range("3~2"), None);
        assert_eq!(range("3"), None);
    }

    #[test]
    fn booleans_are_case_sensitive() {
        assert_eq!(
            (boolean("Yes"), boolean("No"), boolean("yes")),
            (Some(true), Some(false), None)
        );
    }

    #[test]
    fn lists_keep_their_order() {
        assert!(list("CRC32C,None").eq(["CRC32C", "None"]));
        assert!(list("None").eq(["None"]));
    }

    #[test]
    fn binary_values_are_hexadecimal_or_base64() {
        let mut out = [0u8; 8];
        let mut decode = |text| binary(text, &mut out).map(|len| out[..len].to_vec());
        assert_eq!(decode("0x0aF"), Ok(vec![0x00, 0xaf]));
        assert_eq!(decode("0X1234"), Ok(vec![0x12, 0x34]));
        // RFC 4648, section 10.
        assert_eq!(decode("0bZg=="), Ok(b"f".to_vec()));
        assert_eq!(decode("0BZm8="), Ok(b"fo".to_vec()));
        assert_eq!(decode("0bZm9v"), Ok(b"foo".to_vec()));
        assert_eq!(decode("0bZm9vYmE="), Ok(b"fooba".to_vec()));
        assert_eq!(decode("0bZm9vYmFy"), Ok(b"foobar".to_vec()));
        for text in [
            "", "12", "0x", "0xg", "0b", "0b=", "0bA", "0bZg===", "0bZ=g=", "0xé",
        ] {
            assert_eq!(decode(text), Err(BinaryError::Malformed), "{text:?}");
        }
        assert_eq!(decode("0x112233445566778899"), Err(BinaryError::TooLong));
        assert_eq!(decode("0bZm9vYmFyZm9v"), Err(BinaryError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_pairs_or_one_error(text in any::<Vec<u8>>()) {
            let all = pairs(&text);
            prop_assert!(all.iter().rev().skip(1).all(Result::is_ok));
        }

        #[test]
        fn what_is_written_is_read(
            all in proptest::collection::vec(("[A-Z][a-zA-Z0-9.@_+-]{0,62}", "[^\0]*"), 0..9),
        ) {
            let mut text = Vec::new();
            for (key, value) in &all {
                write_pair(&mut text, key, value);
            }
            let read: Vec<_> = Pairs::new(&text)
                .map(|pair| pair.map(|p| (p.key.to_owned(), p.value.to_owned())))
                .collect::<Result<_, _>>()
                .unwrap();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn values_never_panic(value in any::<String>(), binary_text in "0[xXbB][0-9a-zA-Z+/=]*") {
            let _ = (number(&value), range(&value), boolean(&value), list(&value).count());
            let mut out = [0u8; 64];
            let _ = binary(&value, &mut out);
            let _ = binary(&binary_text, &mut out);
        }

        #[test]
        fn hexadecimal_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let mut text = Vec::new();
            write_hex(&mut text, &bytes);
            let mut out = [0u8; 64];
            let len = binary(std::str::from_utf8(&text).unwrap(), &mut out).unwrap();
            prop_assert_eq!(&out[..len], &bytes[..]);
        }

        #[test]
        fn numbers_come_back(n in any::<u64>()) {
            prop_assert_eq!(number(&n.to_string()), Some(n));
            prop_assert_eq!(number(&format!("{n:#x}")), Some(n));
        }
    }
}
