//! What counts as an e-mail address: enough to catch a slip of the finger, no more.
//! Never: refuse an address that a mail server would take for the sake of a stricter grammar.

use crate::{IdentityError, Result};

/// The limits of RFC 5321, section 4.5.3.1.
const ADDRESS_BYTES_MAX: usize = 254;
const LOCAL_BYTES_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 63;

/// The address without surrounding space, as it will be kept.
pub(crate) fn check(text: &str) -> Result<&str> {
    let address = text.trim();
    if is_address(address) {
        return Ok(address);
    }
    let problem = "write an e-mail address, such as ann@example.com".to_owned();
    Err(IdentityError::Field { field: "email", problem })
}

fn is_address(address: &str) -> bool {
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>()[],;:\\\"@".contains(c);
    let local_fits = (1..=LOCAL_BYTES_MAX).contains(&local.len())
        && local.chars().all(plain)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    address.len() <= ADDRESS_BYTES_MAX && local_fits && is_domain(domain)
}

fn is_domain(domain: &str) -> bool {
    let label_fits = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    let labels = domain.split('.');
    labels.clone().all(label_fits) && (labels.count() > 1 || domain == "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["ann@example.com", " ann@example.com ", "a+b.c@x.co", "ann@localhost", "jörg@bücher.example"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = format!("{}@example.com", "x".repeat(65));
        for wrong in [
            "",
            "ann",
            "ann@",
            "@example.com",
            "ann@example",
            "a b@example.com",
            "a@b@example.com",
            "ann@-x.com",
            "ann@x..com",
            ".ann@x.com",
            "ann\n@x.com",
            "<ann@x.com>",
            "ann@x.com,bob@x.com",
            &long,
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }
}
