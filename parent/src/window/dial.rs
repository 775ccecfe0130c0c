//! From a permitted target to a connection: finds the addresses that may be connected to, and connects to the first that
//! answers.
//!
//! The address that was judged is the address that is dialled; a name is never resolved a second time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anchorhold_manifest::egress::{Host, Target};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::forbidden::forbidden;
use super::resolve::{Found, Resolve};

/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// How long an address has before the next one is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Why a permitted target was not connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{target} leads to {address}, which no allowlist can open: {why}")]
    Forbidden {
        target: Target,
        address: IpAddr,
        why: &'static str,
    },
    #[error("the name in {target} does not resolve: {source}")]
    Unresolvable { target: Target, source: io::Error },
    #[error("the name in {target} has no address")]
    NoAddress { target: Target },
    #[error("{target} cannot be connected to: {source}")]
    Unreachable { target: Target, source: io::Error },
    #[error("{target} did not answer in {} s", limit.as_secs_f32())]
    TimedOut { target: Target, limit: Duration },
}

/// Why an address that a name leads to is not dialled.
fn refused(address: IpAddr, by_this_host: bool) -> Option<&'static str> {
    if !by_this_host && address.to_canonical().is_loopback() {
        // Whoever answers for the name would choose among this host's own services.
        return Some(
            "only this host's own names may lead to its loopback: write the address, localhost, or the name into /etc/hosts",
        );
    }
    forbidden(address)
}

/// The addresses that may be dialled, no two alike, of IPv6 and IPv4 in turn (RFC 8305, section 4).
fn candidates(target: &Target, found: Found) -> Result<Vec<IpAddr>, DialError> {
    let mut denied = None;
    let mut kinds = [Vec::new(), Vec::new()];
    for address in found.addresses {
        let kind = &mut kinds[usize::from(address.is_ipv4())];
        match refused(address, found.by_this_host) {
            Some(why) => denied = Some((address, why)),
            None if !kind.contains(&address) => kind.push(address),
            None => {}
        }
    }
    let [six, four] = kinds;
    let longest = six.len().max(four.len());
    let addresses: Vec<IpAddr> = (0..longest)
        .flat_map(|at| [six.get(at), four.get(at)])
        .flatten()
        .copied()
        .take(MOST_ADDRESSES)
        .collect();
    match denied {
        _ if !addresses.is_empty() => Ok(addresses),
        Some((address, why)) => Err(DialError::Forbidden {
            target: target.clone(),
            address,
            why,
        }),
        None => Err(DialError::NoAddress {
            target: target.clone(),
        }),
    }
}

/// Connects to a target that the allowlists permit. Ends within `limit`, the resolver's time included.
pub(super) async fn dial(
    target: &Target,
    resolve: &Resolve,
    limit: Duration,
) -> Result<TcpStream, DialError> {
    let deadline = Instant::now() + limit;
    let timed_out = || DialError::TimedOut {
        target: target.clone(),
        limit,
    };
    let found = match target.host() {
        Host::Address(address) => Found {
            addresses: vec![*address],
            by_this_host: true,
        },
        Host::Name(name) => timeout_at(deadline, resolve(name))
            .await
            .map_err(|_| timed_out())?
            .map_err(|source| DialError::Unresolvable {
                target: target.clone(),
                source,
            })?,
    };
    let mut left = candidates(target, found)?.into_iter();

    // An address that swallows packets holds the others up for a head start only. Dropping the set ends all attempts.
    let mut attempts = JoinSet::new();
    let mut failure = None;
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next || attempts.is_empty() {
            match left.next() {
                Some(address) => {
                    attempts.spawn(TcpStream::connect(SocketAddr::new(address, target.port())));
                    next = Instant::now() + HEAD_START;
                }
                None if attempts.is_empty() => {
                    return Err(match failure {
                        Some(source) => DialError::Unreachable {
                            target: target.clone(),
                            source,
                        },
                        None => timed_out(),
                    });
                }
                None => next = deadline,
            }
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(stream)) => {
                    // Latency counts more than packets: these are requests to a key service. A socket that refuses the
                    // option still carries.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(source)) => {
                    failure = Some(source);
                    next = Instant::now();
                }
                Err(_) => {}
            },
            () = sleep_until(next.min(deadline)) => {
                if Instant::now() >= deadline {
                    return Err(timed_out());
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    fn of(addresses: &[&str], by_this_host: bool) -> Found {
        Found {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            by_this_host,
        }
    }

    fn chosen(addresses: &[&str], by_this_host: bool) -> Result<Vec<String>, DialError> {
        let target = "kms.example:443".parse().unwrap();
        let chosen = candidates(&target, of(addresses, by_this_host))?;
        Ok(chosen.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_kinds_of_addresses_take_turns_and_are_bounded() {
        let chosen_of = |addresses: &[&str]| chosen(addresses, false).unwrap();
        assert_eq!(
            chosen_of(&[
                "10.0.0.1",
                "10.0.0.2",
                "2001:db8::1",
                "10.0.0.1",
                "10.0.0.3"
            ]),
            ["2001:db8::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]
        );
        let many: Vec<String> = (1..=50).map(|last| format!("10.0.0.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(chosen_of(&many).len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_name_of_others_leads_neither_to_metadata_nor_to_this_hosts_loopback() {
        for address in [
            "127.0.0.1",
            "::1",
            "::ffff:127.8.8.8",
            "169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(
                matches!(chosen(&[address], false), Err(DialError::Forbidden { .. })),
                "{address}"
            );
            assert_eq!(chosen(&[address, "10.0.0.1"], false).unwrap(), ["10.0.0.1"]);
        }
        assert_eq!(chosen(&["127.0.0.1"], true).unwrap(), ["127.0.0.1"]);
        assert!(chosen(&["169.254.169.254"], true).is_err());
        assert!(matches!(
            chosen(&[], false),
            Err(DialError::NoAddress { .. })
        ));
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_keeps_nobody_from_the_next() {
        // A listener whose queue is full answers no more.
        let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let address = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            waiting.push(tokio::spawn(socket.connect(address)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let good = tokio::net::TcpListener::bind(("127.0.0.2", address.port()))
            .await
            .unwrap();
        let resolve: Resolve =
            std::sync::Arc::new(|_| Box::pin(async { Ok(of(&["127.0.0.1", "127.0.0.2"], true)) }));
        let target = format!("kms.example:{}", address.port()).parse().unwrap();
        let stream = dial(&target, &resolve, Duration::from_secs(20))
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        for task in waiting {
            task.abort();
        }
    }
}
