//! Names to addresses, as this host resolves them: `/etc/hosts` first, then the servers of `/etc/resolv.conf`, with all
//! addresses of a name and for as long as their TTLs say.
//!
//! It asks by itself since the C library's resolver tells no TTL; other sources of `nsswitch.conf` are not asked. Answers that
//! are kept are bounded in number, and their age by [`LONGEST`]. Whoever answers for a name is not believed in anything but
//! its addresses, which are judged elsewhere.

use std::fs;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;

/// Answers that are kept.
const MOST_KEPT: u64 = 256;

/// The longest that an answer is kept, whatever its TTL says.
const LONGEST: Duration = Duration::from_hours(1);

/// The longest that it is remembered that a name has no address.
const LONGEST_NOTHING: Duration = Duration::from_secs(30);

/// The most that is read of a file.
const LARGEST_FILE: u64 = 1 << 20;

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// This host says so itself, and no server was asked.
    pub(super) by_this_host: bool,
}

/// What resolving a name gives.
pub(super) type Resolution = Pin<Box<dyn Future<Output = io::Result<Found>> + Send>>;

/// Turns a host name into addresses.
pub(super) type Resolve = Arc<dyn Fn(&str) -> Resolution + Send + Sync>;

/// The host system's resolver.
pub(super) fn system_resolver() -> Resolve {
    resolver_of("/etc/hosts".into(), "/etc/resolv.conf".into(), read_servers)
}

/// Reads the servers and how they are to be asked.
type ReadServers = fn(&Path) -> io::Result<(ResolverConfig, ResolverOpts)>;

fn resolver_of(hosts: PathBuf, servers: PathBuf, read: ReadServers) -> Resolve {
    let names = Arc::new(Names {
        hosts,
        servers,
        read,
        asked: Mutex::new(None),
    });
    Arc::new(move |name: &str| {
        let names = names.clone();
        let name = name.to_owned();
        Box::pin(async move { names.find(&name).await })
    })
}

fn read_servers(path: &Path) -> io::Result<(ResolverConfig, ResolverOpts)> {
    let cannot = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("{} cannot be used: {error}", path.display()))
    };
    let text = fs::read(path).map_err(|error| cannot(&error))?;
    parse_resolv_conf(text).map_err(|error| cannot(&error))
}

/// What tells one version of a file from the next.
type Version = Option<(u64, u64, i64, i64)>;

struct Names {
    hosts: PathBuf,
    servers: PathBuf,
    read: ReadServers,
    /// Made anew when the file has changed.
    asked: Mutex<Option<(Version, TokioResolver)>>,
}

impl Names {
    async fn find(&self, name: &str) -> io::Result<Found> {
        let mut addresses = in_hosts(&self.hosts, name);
        // RFC 6761, section 6.3: never a matter of servers.
        if addresses.is_empty() && (name == "localhost" || name.ends_with(".localhost")) {
            addresses = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        if !addresses.is_empty() {
            return Ok(Found {
                addresses,
                by_this_host: true,
            });
        }
        let mut asked = Name::from_ascii(name).map_err(io::Error::other)?;
        // A name with dots is whole: a search list would lead it elsewhere.
        asked.set_fqdn(name.contains('.'));
        let resolver = self.resolver()?;
        let found = resolver
            .lookup_ip(asked)
            .await
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Found {
            addresses: found.iter().collect(),
            by_this_host: false,
        })
    }

    fn resolver(&self) -> io::Result<TokioResolver> {
        let version = fs::metadata(&self.servers)
            .ok()
            .map(|of| (of.ino(), of.size(), of.mtime(), of.mtime_nsec()));
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, resolver)) = &*asked
            && *known == version
        {
            return Ok(resolver.clone());
        }
        let (config, options) = (self.read)(&self.servers)?;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let chosen = builder.options_mut();
        *chosen = options;
        chosen.cache_size = MOST_KEPT;
        chosen.positive_max_ttl = Some(LONGEST);
        chosen.negative_max_ttl = Some(LONGEST_NOTHING);
        chosen.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        chosen.use_hosts_file = ResolveHosts::Never;
        chosen.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        chosen.num_concurrent_reqs = 1;
        let resolver = builder.build().map_err(io::Error::other)?;
        *asked = Some((version, resolver.clone()));
        Ok(resolver)
    }
}

/// The addresses that a hosts file (`hosts(5)`) has for a name. One that cannot be read has none.
fn in_hosts(path: &Path, name: &str) -> Vec<IpAddr> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(LARGEST_FILE).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            continue;
        };
        let says = words.any(|word| {
            word.strip_suffix('.')
                .unwrap_or(word)
                .eq_ignore_ascii_case(name)
        });
        if says && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicU32, Ordering};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use tokio::net::UdpSocket;

    /// A name server that counts what it is asked, and answers with addresses that tell how often it was.
    struct Server {
        asked: Arc<AtomicU32>,
        conf: PathBuf,
        _dir: tempfile::TempDir,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    /// The file holds the server's port alone: 53 is not for tests.
    fn read_port(path: &Path) -> io::Result<(ResolverConfig, ResolverOpts)> {
        let port: u16 = fs::read_to_string(path)?.trim().parse().unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(
            None,
            vec![Name::from_ascii("search.example.").unwrap()],
            vec![server],
        );
        Ok((config, ResolverOpts::default()))
    }

    impl Server {
        async fn start() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let dir = tempfile::tempdir().unwrap();
            let conf = dir.path().join("resolv.conf");
            fs::write(&conf, socket.local_addr().unwrap().port().to_string()).unwrap();
            let asked = Arc::new(AtomicU32::new(0));
            let counter = asked.clone();
            let task = tokio::spawn(async move {
                let mut packet = [0; 1500];
                loop {
                    let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                    let request = Message::from_vec(&packet[..length]).unwrap();
                    let query = request.queries[0].clone();
                    let mut answer =
                        Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
                    answer.metadata.recursion_desired = true;
                    answer.metadata.recursion_available = true;
                    answer.add_query(query.clone());
                    let name = query.name().clone();
                    let known = name.to_ascii().eq_ignore_ascii_case("short.example.com.");
                    if !known {
                        answer.metadata.response_code = ResponseCode::NXDomain;
                    } else if query.query_type() == RecordType::A {
                        let time = counter.fetch_add(1, Ordering::Relaxed) as u8;
                        for last in [time, 100 + time] {
                            let data = RData::A(A(Ipv4Addr::new(192, 0, 2, last)));
                            answer.add_answer(Record::from_rdata(name.clone(), 1, data));
                        }
                    } else {
                        let data = RData::AAAA(AAAA("2001:db8::1".parse().unwrap()));
                        answer.add_answer(Record::from_rdata(name, 1, data));
                    }
                    let answer = answer.to_vec().unwrap();
                    socket.send_to(&answer, from).await.unwrap();
                }
            });
            Server {
                asked,
                conf,
                _dir: dir,
                task,
            }
        }

        fn resolve(&self) -> Resolve {
            resolver_of("/nonexistent".into(), self.conf.clone(), read_port)
        }
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_kept_for_as_long_as_their_ttl_says() {
        let server = Server::start().await;
        let resolve = server.resolve();
        let begun = std::time::Instant::now();
        let first = resolve("short.example.com").await.unwrap();
        assert!(!first.by_this_host);
        let again = resolve("short.example.com").await.unwrap();
        if begun.elapsed() < Duration::from_millis(900) {
            assert_eq!(again.addresses, first.addresses);
        }
        let mut sorted: Vec<String> = first.addresses.iter().map(ToString::to_string).collect();
        sorted.sort();
        assert_eq!(sorted, ["192.0.2.0", "192.0.2.100", "2001:db8::1"]);
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let later = resolve("short.example.com").await.unwrap();
        assert!(!later.addresses.contains(&"192.0.2.0".parse().unwrap()));
        assert!(server.asked.load(Ordering::Relaxed) >= 2);
    }

    #[tokio::test]
    async fn a_name_with_dots_is_never_sought_elsewhere() {
        let server = Server::start().await;
        let resolve = server.resolve();
        assert!(resolve("absent.example.com").await.is_err());
        assert!(resolve("nothing").await.is_err());
        assert_eq!(server.asked.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_changed_list_of_servers_is_read_anew() {
        let first = Server::start().await;
        let second = Server::start().await;
        let resolve = first.resolve();
        resolve("short.example.com").await.unwrap();
        let other = fs::read(&second.conf).unwrap();
        fs::remove_file(&first.conf).unwrap();
        fs::write(&first.conf, other).unwrap();
        resolve("short.example.com").await.unwrap();
        assert_eq!(first.asked.load(Ordering::Relaxed), 1);
        assert_eq!(second.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_hosts_file_and_localhost_are_this_hosts_own_word() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(
            &hosts,
            "# a comment\n127.0.1.1 kms.test KMS.internal # more\n::1 kms.test\nnonsense kms.test\n",
        )
        .unwrap();
        let absent = dir.path().join("resolv.conf");
        let resolve = resolver_of(hosts, absent, read_servers);
        for (name, addresses) in [
            ("kms.test", &["127.0.1.1", "::1"][..]),
            ("kms.internal", &["127.0.1.1"]),
            ("localhost", &["::1", "127.0.0.1"]),
            ("a.localhost", &["::1", "127.0.0.1"]),
        ] {
            let found = resolve(name).await.unwrap();
            let expected: Vec<IpAddr> =
                addresses.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(
                (found.addresses, found.by_this_host),
                (expected, true),
                "{name}"
            );
        }
        let error = resolve("other.test").await.unwrap_err().to_string();
        assert!(error.contains("resolv.conf"), "{error}");
    }
}
