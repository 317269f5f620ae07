//! Names, entries and addresses, as tables.
//! Never: a look-up.

use proptest::prelude::*;

use super::*;

fn domain(text: &str) -> Place {
    place(text).unwrap()
}

fn rules(allow: &[&str], private: &[(&str, &str)]) -> Rules {
    let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
    Rules::read(&allow, &[], &private.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()).unwrap()
}

#[test]
fn a_name_has_one_spelling() {
    for (text, spelt) in [
        ("example.org", "example.org"),
        ("EXAMPLE.org.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ.org", "example.org"),
        ("_dns.example.org", "_dns.example.org"),
        ("localhost", "localhost"),
    ] {
        assert_eq!(text.parse::<Domain>().unwrap().as_str(), spelt, "{text}");
    }
    let long = format!("{}.example.org", "x".repeat(64));
    let deep = "a.".repeat(130) + "org";
    for text in [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b.example",
        "a/b",
        "a@b.example",
        "a:80",
        "ex!ample.org",
        "%00",
        "*.example.org",
        "a\0.example",
        &long,
        &deep,
        &"x".repeat(5_000),
    ] {
        assert_eq!(text.parse::<Domain>(), Err(InvalidPlace::NotADomain), "{text}");
    }
    for text in ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::1]", "::1", "[::ffff:10.0.0.1]"] {
        assert_eq!(text.parse::<Domain>(), Err(InvalidPlace::Address), "{text}");
    }
    for (text, private) in [
        ("nas", true),
        ("localhost", true),
        ("a.localhost", true),
        ("printer.local", true),
        ("router.home.arpa", true),
        ("db.internal", true),
        ("metadata.google.internal", true),
        ("home.example", false),
        ("mylocal.org", false),
        ("example.org", false),
    ] {
        assert_eq!(text.parse::<Domain>().unwrap().is_private(), private, "{text}");
    }
}

#[test]
fn entries_name_what_they_say_and_no_more() {
    for (entry, asked, port, allowed) in [
        ("example.org", "example.org", 443, true),
        ("example.org", "EXAMPLE.ORG.", 80, true),
        ("example.org", "a.example.org", 443, false),
        ("example.org", "example.org", 8080, false),
        ("example.org", "badexample.org", 443, false),
        ("*.example.org", "a.example.org", 443, true),
        ("*.example.org", "a.b.example.org", 443, true),
        ("*.example.org", "example.org", 443, false),
        ("*.example.org", "badexample.org", 443, false),
        ("smtp.example.org:587", "smtp.example.org", 587, true),
        ("smtp.example.org:587", "smtp.example.org", 443, false),
        ("*.example.org:8443", "a.example.org", 8443, true),
        ("9.9.9.9", "9.9.9.9", 443, true),
        ("9.9.9.9", "0x09.9.9.9", 443, true),
        ("[2620:fe::fe]:853", "[2620:fe::fe]", 853, true),
        ("2620:fe::fe", "2620:fe::fe", 443, true),
    ] {
        let allowed_here = rules(&[entry], &[]).refusal(&[], &domain(asked), port).is_none();
        assert_eq!(allowed_here, allowed, "{entry} and {asked}:{port}");
        assert_eq!(entry.parse::<Entry>().unwrap().to_string(), entry);
    }
    for (text, error) in [
        ("*", InvalidPlace::NotADomain),
        ("*.org", InvalidPlace::TooWide),
        ("a.*.example", InvalidPlace::NotADomain),
        ("example.org:0", InvalidPlace::Port),
        ("example.org:http", InvalidPlace::Port),
        ("https://example.org", InvalidPlace::Port),
        ("10.0.0.1", InvalidPlace::PrivateAddress),
        ("169.254.169.254", InvalidPlace::PrivateAddress),
        ("*.10.0.0.1", InvalidPlace::Address),
        ("", InvalidPlace::NotADomain),
    ] {
        assert_eq!(text.parse::<Entry>(), Err(error), "{text}");
    }
}

#[test]
fn what_is_refused_says_why_and_a_private_service_needs_both() {
    let rules = rules(&["listed.example"], &[("nas.lan", "192.168.1.20:8080"), ("web.example:443", "127.0.0.1:5001")]);
    let owner = [Entry::exactly("own.example".parse().unwrap())];
    for (asked, port, expected) in [
        ("listed.example", 443, None),
        ("own.example", 80, None),
        ("other.example", 443, Some(Reason::NotListed)),
        ("other.example", 22, Some(Reason::Port)),
        ("listed.example", 22, Some(Reason::Port)),
        ("9.9.9.9", 443, Some(Reason::Address)),
        ("10.0.0.1", 80, Some(Reason::Address)),
        ("nas.lan", 8080, Some(Reason::NotListed)),
        ("nas.lan", 443, Some(Reason::NotListed)),
    ] {
        assert_eq!(rules.refusal(&owner, &domain(asked), port), expected, "{asked}:{port}");
    }
    let allowed = [Entry::exactly("nas.lan".parse().unwrap()), Entry::exactly("web.example".parse().unwrap())];
    assert_eq!(rules.refusal(&allowed, &domain("nas.lan"), 8080), None);
    assert_eq!(rules.refusal(&allowed, &domain("nas.lan"), 8081), Some(Reason::Port));
    assert_eq!(rules.private_address(&domain("nas.lan"), 8080), Some("192.168.1.20:8080".parse().unwrap()));
    assert_eq!(rules.private_address(&domain("web.example"), 443), Some("127.0.0.1:5001".parse().unwrap()));
    assert_eq!(rules.private_address(&domain("web.example"), 80), None);
    for (name, may) in [("nas.lan", true), ("other.lan", false), ("printer", false), ("example.org", true)] {
        assert_eq!(rules.may_be_allowed(&name.parse().unwrap()), may, "{name}");
    }
    let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let private =
        [("a b", "127.0.0.1:1"), ("x.example", "nowhere"), ("y.example", "169.254.169.254:80"), ("z", "10.0.0.1:0")];
    let private = private.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(Rules::read(&text(&["*.org", "10.0.0.1"]), &text(&["*"]), &private).unwrap_err().len(), 7);
}

/// Private, special, or IPv4 in the clothes of IPv6.
const NOT_PUBLIC: &str = "
    0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 100.100.100.200 127.0.0.1 127.9.9.9 169.254.169.254
    169.254.0.1 168.63.129.16 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
    198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 :: ::1
    ::ffff:8.8.8.8 ::ffff:127.0.0.1 ::8.8.8.8 ::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b::10.0.0.1 64:ff9b:1::1 100::1
    2001::1 2001:0:4136:e378::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 fc00::1 fd00:ec2::254
    fd12:3456::1 fe80::1 fec0::1 ff02::1 5f00::1";

#[test]
fn only_the_worlds_addresses_are_public() {
    let public = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.167.0.1"];
    let public6 = ["2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "2620:fe::fe"];
    for text in public.into_iter().chain(public6) {
        assert!(is_public(text.parse().unwrap()), "{text}");
    }
    for text in NOT_PUBLIC.split_whitespace() {
        assert!(!is_public(text.parse().unwrap()), "{text}");
    }
    for (text, may) in [
        ("192.168.1.20", true),
        ("127.0.0.1", true),
        ("10.0.0.1", true),
        ("9.9.9.9", true),
        ("fd12::1", true),
        ("::1", true),
        ("169.254.169.254", false),
        ("fd00:ec2::254", false),
        ("fe80::1", false),
        ("0.0.0.0", false),
        ("::", false),
        ("255.255.255.255", false),
        ("224.0.0.1", false),
        ("::ffff:169.254.169.254", false),
    ] {
        assert_eq!(may_be_named(text.parse().unwrap()), may, "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_is_read_reads_back_as_itself(text in "[a-zA-Z0-9.*:_\\[\\]äß-]{0,40}") {
        if let Ok(entry) = text.parse::<Entry>() {
            prop_assert_eq!(&entry.to_string().parse::<Entry>().unwrap(), &entry);
        }
        if let Ok(found) = place(&text) {
            prop_assert_eq!(place(&found.to_string()).unwrap(), found);
        }
    }

    /// An address that carries another one inside is never public.
    #[test]
    fn no_form_of_ipv4_inside_ipv6_is_public(bits in any::<u32>(), rest in any::<u64>()) {
        let four = std::net::Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = four.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        let six = |segments: [u16; 8]| IpAddr::from(segments);
        for address in [
            six([0, 0, 0, 0, 0, 0xffff, high, low]),
            six([0, 0, 0, 0, 0, 0, high, low]),
            six([0x64, 0xff9b, 0, 0, 0, 0, high, low]),
            six([0x2002, high, low, (rest >> 48) as u16, 0, 0, 0, 1]),
            six([0x2001, 0, high, low, 0, 0, !high, !low]),
        ] {
            prop_assert!(!is_public(address), "{}", address);
        }
    }
}
