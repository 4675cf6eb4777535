//! References, digests and platforms.

use wharf_images::{Digest, Platform, Reference};

use crate::check;

const COMPONENT: &str = "expected a-z and 0-9, separated by one `.`, one or two `_`, or any number of `-`";
const TAG: &str = "expected up to 128 of A-Z a-z 0-9 _ . -, not starting with . or -";
const HOST: &str = "expected a host name or address with an optional port";
const HEX: &str = "expected 64 lower-case hexadecimal digits after `sha256:`";

#[test]
fn references_that_are_none_are_named_with_the_part_that_is_wrong() {
    let long = format!("q.io/{}", "a".repeat(256));
    let tag = format!("a:{}", "t".repeat(129));
    let id = "0123456789abcdef".repeat(4);
    for (reference, found, expected) in [
        ("", "``", "is empty"),
        (" ", "component ` `", COMPONENT),
        ("https://quay.io/a", "`https://`", "write registry/repository:tag"),
        ("docker://quay.io/a", "`docker://`", "write registry/repository:tag"),
        ("Busybox", "`Busybox`", "must be lower-case"),
        ("q.io/Team/app", "`Team/app`", "must be lower-case"),
        ("a//b", "component ``", COMPONENT),
        ("/a", "component ``", COMPONENT),
        ("a/", "component ``", COMPONENT),
        ("q.io/", "component ``", COMPONENT),
        ("a..b", "component `a..b`", COMPONENT),
        ("a___b", "component `a___b`", COMPONENT),
        ("a-", "component `a-`", COMPONENT),
        ("_a", "component `_a`", COMPONENT),
        ("a/../b", "component `..`", COMPONENT),
        ("a/%2e%2e/b", "component `%2e%2e`", COMPONENT),
        ("a b", "component `a b`", COMPONENT),
        ("q.io/a?x=y", "component `a?x=y`", COMPONENT),
        ("q.io/a#x", "component `a#x`", COMPONENT),
        ("ä", "component `ä`", COMPONENT),
        ("a:", "tag ``", TAG),
        ("a:-x", "tag `-x`", TAG),
        ("a:.x", "tag `.x`", TAG),
        ("a:b c", "tag `b c`", TAG),
        ("a:b+c", "tag `b+c`", TAG),
        (&tag, "tag `ttt", TAG),
        (&long, "repository", "is longer than 255 bytes"),
        ("host:0/a", "port `0`", "expected 1-65535"),
        ("host:65536/a", "port `65536`", "expected 1-65535"),
        ("host:/a", "port ``", "expected 1-65535"),
        ("host:8o/a", "port `8o`", "expected 1-65535"),
        ("ho_st.x/a", "registry `ho_st.x`", HOST),
        ("-host.x/a", "registry `-host.x`", HOST),
        ("me:secret@host.x/a", "digest `host.x/a`", "expected `algorithm:hex`"),
        ("[::1/a", "registry `[::1`", HOST),
        ("[zz]:1/a", "registry `[zz]:1`", HOST),
        ("..:1/a", "registry `..:1`", HOST),
        (&id, "64 hexadecimal digits", "which is an image id"),
        ("a@", "digest ``", "expected `algorithm:hex`"),
        ("a@x@y", "digest `x@y`", "expected `algorithm:hex`"),
        ("a@sha256:12", "digest `sha256:12`", HEX),
        ("a\n", "component `a\\n`", COMPONENT),
        ("a\u{1b}[31m", "component `a\\u{1b}[31m`", COMPONENT),
    ] {
        let line = reference.parse::<Reference>().unwrap_err().to_string();
        check(reference, &line, &["image reference `", found, expected]);
    }
}

#[test]
fn digests_that_are_none_are_named() {
    let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for (digest, expected) in [
        ("", "expected `algorithm:hex`"),
        ("sha256", "expected `algorithm:hex`"),
        (digits, "expected `algorithm:hex`"),
        ("sha256:", HEX),
        ("sha256:../../etc/passwd", HEX),
        (&format!("sha256:{}", digits.to_uppercase()), HEX),
        (&format!("sha256:{}", &digits[1..]), HEX),
        (&format!("sha256:{digits}0"), HEX),
        (&format!("sha256: {}", &digits[1..]), HEX),
        (&format!("sha512:{digits}{digits}"), "algorithm `sha512` is not supported, only sha256 is"),
        (&format!("md5:{}", &digits[32..]), "algorithm `md5` is not supported, only sha256 is"),
        (&format!("SHA256:{digits}"), "algorithm `SHA256` is not supported, only sha256 is"),
    ] {
        let line = digest.parse::<Digest>().unwrap_err().to_string();
        check(digest, &line, &[&format!("digest `{digest}`"), expected]);
    }
}

#[test]
fn platforms_that_are_none_are_named() {
    for platform in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
        let line = platform.parse::<Platform>().unwrap_err().to_string();
        check(
            platform,
            &line,
            &[&format!("platform `{platform}`"), "expected os/architecture or os/architecture/variant"],
        );
    }
}
