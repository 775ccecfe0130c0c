//! Sources of credentials, with their endpoints played on loopback.

use super::*;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

fn variables(of: &[(&'static str, &str)]) -> Variables {
    let map: BTreeMap<&'static str, OsString> = of
        .iter()
        .map(|(name, value)| (*name, OsString::from(value)))
        .collect();
    Box::new(move |name| map.get(name).cloned())
}

fn from(of: &[(&'static str, &str)]) -> Result<Credentials, CredentialsError> {
    Credentials::from_variables(&variables(of))
}

/// Nothing here may ask an endpoint that is not played.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

fn open(
    source: &CredentialsSource,
    of: &[(&'static str, &str)],
) -> Result<Credentials, CredentialsError> {
    let mut of = of.to_vec();
    if !of
        .iter()
        .any(|(name, _)| name.starts_with("AWS_EC2_METADATA_SERVICE"))
    {
        of.push(("AWS_EC2_METADATA_DISABLED", "true"));
    }
    Credentials::open_with(source, &variables(&of), NOWHERE)
}

async fn text(credentials: &Credentials) -> String {
    let json = credentials.json().await.unwrap().unwrap();
    String::from_utf8(json.to_vec()).unwrap()
}

/// An endpoint: answers each request by a function of its head.
struct Endpoint {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    async fn new(answer: impl Fn(&str, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let (status, body) = answer(&head, counter.fetch_add(1, Ordering::Relaxed));
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn answer(id: &str, expires: Timestamp) -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"hush","Token":"token","Expiration":"{expires}","RoleArn":"arn"}}"#
    )
}

fn in_(seconds: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap()
}

#[test]
fn sources_are_named_in_words() {
    for (text, source) in [
        ("environment", CredentialsSource::Environment),
        ("profile", CredentialsSource::Profile(None)),
        (
            "profile:prod",
            CredentialsSource::Profile(Some("prod".into())),
        ),
        ("file:/run/a:b", CredentialsSource::File("/run/a:b".into())),
        ("container", CredentialsSource::Container),
        ("imds", CredentialsSource::Imds),
        ("auto", CredentialsSource::Auto),
        ("nothing", CredentialsSource::Nothing),
    ] {
        assert_eq!(text.parse(), Ok(source));
    }
    for text in ["", "imdsv1", "file:", "profile:", "imds:1", "/etc/passwd"] {
        assert!(text.parse::<CredentialsSource>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn the_environment_becomes_container_credentials() {
    let credentials = from(&[
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", "token"),
    ])
    .unwrap();
    assert_eq!(
        text(&credentials).await,
        r#"{"AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"token"}"#
    );
}

#[tokio::test]
async fn without_variables_there_are_no_credentials() {
    assert!(from(&[]).unwrap().json().await.unwrap().is_none());
    let empty = from(&[("AWS_ACCESS_KEY_ID", "")]).unwrap();
    assert!(empty.json().await.unwrap().is_none());
}

#[test]
fn half_a_pair_names_the_missing_half() {
    let error = from(&[("AWS_ACCESS_KEY_ID", "AKID")]).err().unwrap();
    assert!(
        error.to_string().contains("AWS_SECRET_ACCESS_KEY is not"),
        "{error}"
    );
    let error = from(&[("AWS_SECRET_ACCESS_KEY", "hush")]).err().unwrap();
    assert!(
        error.to_string().contains("AWS_ACCESS_KEY_ID is not"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("hush"));
}

#[tokio::test]
async fn a_replaced_file_is_seen_and_only_known_fields_leave() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.json");
    std::fs::write(
        &path,
        r#"{"AccessKeyId":"A","SecretAccessKey":"b","RoleArn":"arn"}"#,
    )
    .unwrap();
    let credentials = Credentials::open(&CredentialsSource::File(path.clone())).unwrap();
    assert_eq!(
        text(&credentials).await,
        r#"{"AccessKeyId":"A","SecretAccessKey":"b"}"#
    );
    let newer = r#"{"AccessKeyId":"A2","SecretAccessKey":"b2","Token":"t","Expiration":"2030-01-01T00:00:00Z"}"#;
    std::fs::write(&path, newer).unwrap();
    assert_eq!(text(&credentials).await, newer);
    let described = credentials.describe().await.unwrap().unwrap();
    assert_eq!(
        described.expires,
        Some("2030-01-01T00:00:00Z".parse().unwrap())
    );
    // As `aws configure export-credentials` prints them.
    let exported = r#"{"Version":1,"AccessKeyId":"A3","SecretAccessKey":"b3","SessionToken":"t3","Expiration":"2030-01-01T00:00:00+00:00"}"#;
    std::fs::write(&path, exported).unwrap();
    assert_eq!(
        text(&credentials).await,
        r#"{"AccessKeyId":"A3","SecretAccessKey":"b3","Token":"t3","Expiration":"2030-01-01T00:00:00+00:00"}"#
    );
    std::fs::write(&path, r#"{"AccessKeyId":"hush"}"#).unwrap();
    let error = credentials.json().await.err().unwrap();
    assert!(matches!(error, CredentialsError::Malformed { .. }));
    assert!(!error.to_string().contains("hush"));
}

#[tokio::test]
async fn imds_is_asked_with_a_token_and_never_without() {
    let endpoint = Endpoint::new(|head, _| {
        assert!(!head.to_ascii_lowercase().contains("x-forwarded-for"));
        if head.starts_with("PUT /latest/api/token HTTP/1.1\r\n") {
            assert!(head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60\r\n"));
            return (200, "the-token".into());
        }
        if !head.contains("x-aws-ec2-metadata-token: the-token\r\n") {
            return (401, String::new());
        }
        match head.split(' ').nth(1).unwrap() {
            "/latest/meta-data/iam/security-credentials/" => (200, "my-role".into()),
            "/latest/meta-data/iam/security-credentials/my-role" => {
                (200, answer("ASIA", in_(3600)))
            }
            _ => (404, String::new()),
        }
    })
    .await;
    let url = endpoint.url("");
    let env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    let credentials = open(&CredentialsSource::Imds, &env).unwrap();
    assert!(text(&credentials).await.contains(r#""AccessKeyId":"ASIA""#));
    assert_eq!(endpoint.asked(), 3);
    // They are good for an hour, so that nobody is asked again.
    text(&credentials).await;
    assert_eq!(endpoint.asked(), 3);

    // Version 1 would answer this one.
    let old = Endpoint::new(|head, _| {
        assert!(head.starts_with("PUT "), "it was asked without a token");
        (403, String::new())
    })
    .await;
    let url = old.url("");
    let env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    let credentials = open(&CredentialsSource::Imds, &env).unwrap();
    let error = credentials.json().await.unwrap_err().to_string();
    assert!(error.contains("it answered 403"), "{error}");
    assert_eq!(old.asked(), 1);
}

#[tokio::test]
async fn a_metadata_service_that_names_a_path_for_a_role_is_not_followed() {
    for role in ["../../user-data", "a b", "", "a/b", ".."] {
        let endpoint = Endpoint::new(move |head, _| {
            if head.starts_with("PUT ") {
                return (200, "t".into());
            }
            let path = head.split(' ').nth(1).unwrap();
            assert_eq!(path, "/latest/meta-data/iam/security-credentials/");
            (200, role.into())
        })
        .await;
        let url = endpoint.url("/");
        let env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
        let credentials = open(&CredentialsSource::Imds, &env).unwrap();
        assert!(credentials.json().await.is_err(), "{role:?}");
    }
}

#[tokio::test]
async fn the_containers_endpoint_is_asked_with_its_token_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "first\n").unwrap();
    let endpoint = Endpoint::new(|head, time| {
        let token = ["first", "second"][time];
        assert!(
            head.starts_with("GET /v1/credentials?id=7 HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("authorization: {token}\r\n")),
            "{head}"
        );
        // So soon over that they are fetched each time.
        (200, answer(token, in_(if time == 0 { -1 } else { 3600 })))
    })
    .await;
    let url = endpoint.url("/v1/credentials?id=7");
    let env = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the file comes first"),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            file.to_str().unwrap(),
        ),
    ];
    let credentials = open(&CredentialsSource::Container, &env).unwrap();
    let error = credentials.json().await.unwrap_err();
    assert!(matches!(error, CredentialsError::Expired { .. }), "{error}");
    std::fs::write(&file, "second").unwrap();
    let Kept::Fetched(fetched) = &credentials.0 else {
        panic!("they are fetched");
    };
    fetched.flight.lock().await.next = None;
    assert!(text(&credentials).await.contains("second"));
}

#[tokio::test]
async fn a_tasks_relative_uri_leads_to_the_tasks_endpoint() {
    let endpoint = Endpoint::new(|head, _| {
        assert!(head.starts_with("GET /v2/credentials/uuid HTTP/1.1\r\n"));
        (200, answer("TASK", in_(3600)))
    })
    .await;
    let env = variables(&[
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "/v2/credentials/uuid",
        ),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://192.0.2.1/never",
        ),
    ]);
    let source = CredentialsSource::Container;
    let credentials = Credentials::open_with(&source, &env, endpoint.address).unwrap();
    assert!(text(&credentials).await.contains("TASK"));
}

#[test]
fn credentials_are_asked_of_no_other_host_than_aws_names() {
    for (uri, refused) in [
        ("http://192.0.2.1/", true),
        ("http://169.254.169.254/", true),
        ("http://10.0.0.1:80/", true),
        ("http://metadata.example/", true),
        ("http://localhost.evil.example/", true),
        ("http://127.0.0.1@evil.example/", true),
        ("https://127.0.0.1/", true),
        ("ftp://127.0.0.1/", true),
        ("http://127.0.0.1/a b", true),
        ("http://127.0.0.1:1/x", false),
        ("http://localhost:1/x", false),
        ("http://[::1]:1/x", false),
        ("http://169.254.170.2/x", false),
        ("http://169.254.170.23/x", false),
        ("http://[fd00:ec2::23]/x", false),
    ] {
        let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)];
        let opened = open(&CredentialsSource::Container, &env);
        assert_eq!(opened.is_err(), refused, "{uri}");
    }
    let unset = open(&CredentialsSource::Container, &[]).err().unwrap();
    assert_eq!(unset, CredentialsError::Container(ContainerProblem::Unset));
}

#[tokio::test]
async fn many_who_ask_at_once_cause_one_fetch_and_the_last_good_ones_are_kept() {
    let endpoint = Endpoint::new(|_, time| {
        if time == 0 {
            // Due to be fetched anew, and good for a while.
            (200, answer("FIRST", in_(120)))
        } else {
            (500, "broken".into())
        }
    })
    .await;
    let url = endpoint.url("/");
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())];
    let credentials = Arc::new(open(&CredentialsSource::Container, &env).unwrap());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let credentials = credentials.clone();
        asking.spawn(async move { text(&credentials).await });
    }
    while let Some(got) = asking.join_next().await {
        assert!(got.unwrap().contains("FIRST"));
    }
    assert_eq!(endpoint.asked(), 1);
    // As if the pause were over.
    let Kept::Fetched(fetched) = &credentials.0 else {
        panic!("they are fetched");
    };
    fetched.flight.lock().await.next = None;
    assert!(text(&credentials).await.contains("FIRST"));
    assert_eq!(endpoint.asked(), 2);
    // It failed, and is left in peace for a while.
    assert!(text(&credentials).await.contains("FIRST"));
    assert_eq!(endpoint.asked(), 2);
    // When they have expired, they are handed in no more.
    let over = Given {
        json: Zeroizing::new(Vec::new()),
        expires: Some(in_(-1)),
        fetched: in_(-100),
        from: "a test",
    };
    *fetched.last.write().unwrap() = Some(Arc::new(over));
    assert!(credentials.json().await.is_err());
}

#[test]
fn credentials_are_due_before_they_expire() {
    let at = |second| Timestamp::from_second(second).unwrap();
    for (until, now, expected) in [
        (None, 0, Due::Now),
        (Some(1000), 0, Due::No),
        (Some(1000), 699, Due::No),
        (Some(1000), 700, Due::Soon),
        (Some(1000), 999, Due::Soon),
        (Some(1000), 1000, Due::Now),
    ] {
        assert_eq!(due(until.map(at), at(now)), expected);
    }
}

#[tokio::test]
async fn sources_come_in_the_order_of_aws_sdks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials");
    std::fs::write(
        &file,
        "[default]\naws_access_key_id = PROFILE\naws_secret_access_key = s\n",
    )
    .unwrap();
    let endpoint = Endpoint::new(|_, _| (200, answer("CONTAINER", in_(3600)))).await;
    let imds = Endpoint::new(|head, _| {
        let body = match head.split(' ').nth(1).unwrap() {
            "/latest/api/token" => "token".into(),
            "/latest/meta-data/iam/security-credentials/" => "role".into(),
            _ => answer("INSTANCE", in_(3600)),
        };
        (200, body)
    })
    .await;
    let (url, imds) = (endpoint.url("/"), imds.url(""));
    let absent = dir.path().join("absent");
    let all = [
        ("AWS_ACCESS_KEY_ID", "ENVIRONMENT"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.as_str()),
    ];
    let found = async |of: &[(&'static str, &str)]| {
        let mut of = of.to_vec();
        of.push(("AWS_CONFIG_FILE", absent.to_str().unwrap()));
        text(&open(&CredentialsSource::Auto, &of).unwrap()).await
    };
    assert!(found(&all).await.contains("ENVIRONMENT"));
    assert!(found(&all[2..]).await.contains("PROFILE"));
    assert!(found(&all[3..]).await.contains("CONTAINER"));
    assert!(found(&all[4..]).await.contains("INSTANCE"));
    let nothing = [("AWS_CONFIG_FILE", absent.to_str().unwrap())];
    let nothing = open(&CredentialsSource::Auto, &nothing).unwrap();
    assert!(nothing.json().await.unwrap().is_none());
    // What would come before in an SDK and does not exist here is not passed over.
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), all[3]];
    let error = open(&CredentialsSource::Auto, &web).err().unwrap();
    assert!(matches!(error, CredentialsError::WebIdentity(_)));
}

#[test]
fn profiles_are_read_as_aws_tools_read_them() {
    let file = "\
        # comment\n\
        [default]\n\
        aws_access_key_id = D\n\
        aws_secret_access_key = d ; a comment\n\
        [other]\n\
        AWS_ACCESS_KEY_ID=O\n\
        aws_secret_access_key=has#hash\n\
        aws_session_token = t\n\
        s3 =\n  \
          aws_access_key_id = nested\n\
        [half]\n\
        aws_access_key_id = H\n\
        [role]\n\
        role_arn = arn:aws:iam::1:role/r\n\
        aws_access_key_id = R\n\
        aws_secret_access_key = r\n";
    let read = |name, is_config| profile::read_for_tests(file, name, is_config);
    assert_eq!(
        read("default", false).unwrap(),
        Some(("D".into(), "d".into(), None))
    );
    assert_eq!(
        read("other", false).unwrap(),
        Some(("O".into(), "has#hash".into(), Some("t".into())))
    );
    assert_eq!(read("absent", false).unwrap(), None);
    // In the configuration file, other profiles are called [profile other].
    assert_eq!(read("other", true).unwrap(), None);
    assert!(read("default", true).unwrap().is_some());
    assert!(matches!(
        read("half", false),
        Err(ProfileProblem::Incomplete { .. })
    ));
    assert_eq!(
        read("role", false),
        Err(ProfileProblem::Elsewhere("role_arn"))
    );
    let config = "[profile other]\naws_access_key_id=C\naws_secret_access_key=c\n";
    assert!(
        profile::read_for_tests(config, "other", true)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_profile_that_was_asked_for_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let named = [("HOME", home), ("AWS_PROFILE", "prod")];
    let error = open(&CredentialsSource::Auto, &named).err().unwrap();
    assert!(error.to_string().contains("\"prod\""), "{error}");
    let source = CredentialsSource::Profile(Some("prod".into()));
    assert!(open(&source, &[("HOME", home)]).is_err());
    std::fs::create_dir(dir.path().join(".aws")).unwrap();
    let text = "[prod]\naws_access_key_id=P\naws_secret_access_key=p\n";
    std::fs::write(dir.path().join(".aws/credentials"), text).unwrap();
    assert!(open(&source, &[("HOME", home)]).is_ok());
}

#[tokio::test]
async fn an_endpoint_that_floods_stalls_or_talks_nonsense_gives_an_error_and_nothing_of_it_is_repeated()
 {
    for (body, expected) in [
        ("x".repeat(LARGEST as usize + 1), FetchError::TooLarge),
        ("hush".to_owned(), FetchError::Malformed),
        (
            r#"{"AccessKeyId":"A","SecretAccessKey":"hush","Expiration":"soon"}"#.to_owned(),
            FetchError::Expiration,
        ),
    ] {
        let endpoint = Endpoint::new(move |_, _| (200, body.clone())).await;
        let url = endpoint.url("/");
        let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())];
        let credentials = open(&CredentialsSource::Container, &env).unwrap();
        let error = credentials.json().await.unwrap_err();
        assert!(!error.to_string().contains("hush"));
        assert!(matches!(error, CredentialsError::Fetch { error, .. } if error == expected));
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())];
    let credentials = open(&CredentialsSource::Container, &env).unwrap();
    let error = credentials.json().await.unwrap_err();
    assert!(matches!(
        error,
        CredentialsError::Fetch {
            error: FetchError::TimedOut,
            ..
        }
    ));
}
