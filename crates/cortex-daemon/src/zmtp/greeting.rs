//! The greeting: the first 64 bytes that each side sends.
//!
//! ```text
//! 0xff, 8 bytes of padding, 0x7f | major, minor | mechanism, 20 bytes | as-server | 31 zeros
//! ```

use super::violation::Violation;

pub(super) const LENGTH: usize = 64;

const MECHANISM: std::ops::Range<usize> = 12..32;

/// The daemon's greeting: version 3.1, mechanism NULL.
pub(super) const GREETING: [u8; LENGTH] = {
    let mut greeting = [0; LENGTH];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[11] = 1;
    let (mechanism, mut at) = (b"NULL", 0);
    while at < mechanism.len() {
        greeting[MECHANISM.start + at] = mechanism[at];
        at += 1;
    }
    greeting
};

/// Checks the first bytes of a peer's greeting. A partial greeting is checked as well: a peer with
/// another protocol may wait for an answer before it sends 64 bytes.
pub(super) fn check(greeting: &[u8]) -> Result<(), Violation> {
    let differs = |at: usize, expected: u8| greeting.get(at).is_some_and(|byte| *byte != expected);
    if differs(0, 0xff) || differs(9, 0x7f) {
        return Err(Violation::NotZmtp);
    }
    if let Some(&major) = greeting.get(10)
        && major < 3
    {
        return Err(Violation::OldVersion(major));
    }
    if let Some(mechanism) = greeting.get(MECHANISM)
        && mechanism != &GREETING[MECHANISM]
    {
        let name = mechanism.split(|byte| *byte == 0).next().unwrap_or_default();
        return Err(Violation::Mechanism(String::from_utf8_lossy(name).into_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(at: usize, byte: u8) -> [u8; LENGTH] {
        let mut greeting = GREETING;
        greeting[at] = byte;
        greeting
    }

    #[test]
    fn a_good_greeting_is_good_at_every_length() {
        for end in 0..=LENGTH {
            assert_eq!(check(&GREETING[..end]), Ok(()));
        }
    }

    #[test]
    fn padding_minor_version_role_and_filler_may_be_anything() {
        for at in (1..9).chain([11]).chain(32..64) {
            assert_eq!(check(&with(at, 0x42)), Ok(()), "byte {at}");
        }
        assert_eq!(check(&with(10, 4)), Ok(()), "a later version falls back to ours");
    }

    #[test]
    fn other_protocols_are_recognized_by_their_first_bytes() {
        assert_eq!(check(b"G"), Err(Violation::NotZmtp));
        assert_eq!(check(&with(9, 0)[..10]), Err(Violation::NotZmtp));
        assert_eq!(check(&with(10, 1)[..11]), Err(Violation::OldVersion(1)));
    }

    #[test]
    fn only_the_null_mechanism_is_accepted() {
        let mut curve = GREETING;
        curve[12..17].copy_from_slice(b"CURVE");
        assert_eq!(check(&curve), Err(Violation::Mechanism("CURVE".into())));
        assert_eq!(check(&with(16, b'X')), Err(Violation::Mechanism("NULLX".into())));
        assert!(check(&with(31, 1)).is_err(), "only zeros may follow NULL");
        assert_eq!(check(&curve[..31]), Ok(()), "the mechanism is still incomplete");
    }
}
