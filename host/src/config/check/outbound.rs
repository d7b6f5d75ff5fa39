//! Entries of `grants.http`: hosts that a handler may send requests to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An entry in its normal form (lower case), or why it is none.
///
/// Private, loopback and link-local addresses are reachable only where the list names the very address and port, so they need one.
pub(super) fn host(written: &str) -> Result<String, String> {
    let expected = "expected a host, such as `api.example.com`, `*.example.com`, `api.example.com:8443` or `127.0.0.1:9000`";
    let entry = written.to_ascii_lowercase();
    let bare = entry.split_once("://").map_or(entry.as_str(), |(_, rest)| rest);
    // What stands before an `@` may be a password.
    let bare = bare.split(['/', '?', '#']).next().and_then(|host| host.rsplit('@').next()).unwrap_or_default();
    if bare != entry {
        return Err(match host(bare) {
            Ok(bare) => format!("only the host is granted, without scheme and path: write `{bare}`"),
            Err(_) => expected.to_owned(),
        });
    }
    let (name, port) = match entry.rsplit_once(':') {
        // The colons of an IPv6 address are not a port's.
        _ if entry.ends_with(']') || entry.parse::<Ipv6Addr>().is_ok() => (entry.as_str(), None),
        Some((name, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (name, Some(port)),
            _ => return Err(format!("the port is not a number from 1 to 65535; {expected}")),
        },
        None => (entry.as_str(), None),
    };
    let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = unbracketed.parse::<IpAddr>() {
        return match port {
            None if is_private(address) => {
                Err(format!("{address} is a private address, which is granted with its port only: `{}`", with_port(address, "PORT")))
            }
            None => Ok(address.to_string()),
            Some(port) => Ok(with_port(address, &port.to_string())),
        };
    }
    if name == "localhost" || name.ends_with(".localhost") {
        let port = port.map_or("PORT".to_owned(), |port| port.to_string());
        return Err(format!("a loopback address is granted by the address itself: `127.0.0.1:{port}`"));
    }
    if name == "*" {
        return Err("`*` alone would grant every host; name them, or a domain: `*.example.com`".to_owned());
    }
    let domain = name.strip_prefix("*.").unwrap_or(name);
    if domain.contains('*') {
        return Err("`*` stands for the beginning of a name only: `*.example.com`".to_owned());
    }
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    // A name whose last label is a number is an address to some resolvers.
    let numeric = domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if domain.len() > 253 || numeric || !domain.split('.').all(label) {
        return Err(expected.to_owned());
    }
    Ok(entry)
}

fn with_port(address: IpAddr, port: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    }
}

/// Not an address of the public Internet (RFC 6890).
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_private_v4(address),
            None => {
                let unique_local = address.segments()[0] & 0xfe00 == 0xfc00;
                let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
                address.is_loopback() || address.is_unspecified() || address.is_multicast() || unique_local || link_local
            }
        },
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    a == 0 || a >= 224 || shared || address.is_loopback() || address.is_private() || address.is_link_local()
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn hosts_are_granted() {
        for (written, normal) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com", "api.example.com"),
            ("*.example.com", "*.example.com"),
            ("api.example.com:8443", "api.example.com:8443"),
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("[::1]:9000", "[::1]:9000"),
            ("93.184.216.34", "93.184.216.34"),
            ("my_service.internal:80", "my_service.internal:80"),
        ] {
            assert_eq!(host(written).as_deref(), Ok(normal), "{written}");
        }
    }

    #[test]
    fn private_addresses_need_their_port() {
        for written in
            ["127.0.0.1", "10.0.0.8", "169.254.169.254", "192.168.1.1", "100.64.0.1", "::1", "[fd00::1]", "::ffff:127.0.0.1", "0.0.0.0"]
        {
            let error = host(written).unwrap_err();
            assert!(error.contains("granted with its port only"), "{written}: {error}");
        }
    }

    #[test]
    fn the_host_part_of_a_url_is_suggested_and_its_password_is_not_shown() {
        let error = host("https://user:hunter2@api.example.com:8443/v1").unwrap_err();
        assert_eq!(error, "only the host is granted, without scheme and path: write `api.example.com:8443`");
        assert_eq!(host("api.example.com/v1").unwrap_err(), "only the host is granted, without scheme and path: write `api.example.com`");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for written in
            ["", "*", "a b", "api.*.com", "*example.com", "localhost:9000", "127.1", "host:0", "host:http", "https://", "-a.com", "a..b"]
        {
            assert!(host(written).is_err(), "{written}");
        }
    }
}
