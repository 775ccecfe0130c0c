//! A real enclave behind an honest parent and behind lying ones; each client, through everything that it plugs into, is
//! answered by the enclave and says nothing to anybody else.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use anchorhold_channel::user_data;
use anchorhold_client::{ConnectError, Connector, Protocol};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use crate::common::House;
use crate::stage::{
    Asked, Liar, Papers, SECRET, Said, asked_by_the_parent, certificate_for, connector, enclave,
    honest, http, image, listening, pcr0, root_pem, straight,
};
use crate::{LANGUAGES, drive};

/// Somebody who answers at a port, and what clients say of him.
struct Door {
    name: &'static str,
    port: u16,
    /// Stable names of what is wrong; `None`: there is no handshake, or no answer, which each TLS says in its own words.
    names: Option<&'static [&'static str]>,
    liar: Option<Liar>,
}

impl Door {
    fn liar(
        name: &'static str,
        names: &'static [&'static str],
        answer: impl Fn(&Asked) -> Said + Send + Sync + 'static,
    ) -> Door {
        let liar = Liar::new(answer);
        Door {
            name,
            port: liar.port,
            names: Some(names),
            liar: Some(liar),
        }
    }
}

/// A document by who has a root, with the claims nonce, public key and user data.
fn forged(
    root: &DevelopmentRoot,
    pcr0: anchorhold_attestation::Pcr,
    claims: [Option<Vec<u8>>; 3],
) -> Vec<u8> {
    let config = NsmConfig {
        pcr0,
        pcr1: pcr0,
        pcr2: pcr0,
        ..NsmConfig::default()
    };
    let nsm = Nsm::new(root, config, SystemTime::now()).expect("an NSM");
    let [nonce, public_key, user_data] = claims.map(|bytes| bytes.map(ByteBuf::from));
    let request = Request::Attestation {
        user_data,
        nonce,
        public_key,
    };
    let request = serde_cbor::to_vec(&request).expect("CBOR");
    match serde_cbor::from_slice(&nsm.handle(&request, SystemTime::now())).expect("CBOR") {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}

fn nonce(asked: &Asked) -> Vec<u8> {
    hex::decode(&asked.nonce).expect("hex")
}

/// What the Rust library says at a door.
fn rust(connector: &Connector, port: u16) -> Result<(), ConnectError> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let mut channel = connector
        .clone()
        .protocol(Protocol::Http1)
        .connect_blocking("127.0.0.1", stream)?;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        SECRET.len()
    );
    channel.write_all(&[head.as_bytes(), SECRET].concat())?;
    let mut said = Vec::new();
    // Who is believed may still hang up without a word.
    let _ = channel.read_to_end(&mut said);
    Ok(())
}

/// All that an enclave says on one channel.
fn recorded(connector: &Connector, folder: &std::path::Path) -> Vec<u8> {
    let enclave = anchorhold_parent::sandbox::connect(folder, anchorhold_manifest::TLS_PORT)
        .expect("the enclave's port");
    let (ours, parents) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let (mut up, mut inside) = (
        parents.try_clone().expect("a handle"),
        enclave.try_clone().expect("a handle"),
    );
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut inside);
        let _ = inside.shutdown(Shutdown::Write);
    });
    let recording = std::thread::spawn(move || {
        let (mut enclave, mut down) = (enclave, parents);
        let mut recorded = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = enclave.read(&mut buffer) {
            recorded.extend_from_slice(&buffer[..count]);
            let _ = down.write_all(&buffer[..count]);
        }
        recorded
    });
    let channel = connector
        .clone()
        .protocol(Protocol::Http1)
        .connect_blocking("enclave.invalid", ours)
        .expect("an honest channel");
    let _ = channel.stream().shutdown(Shutdown::Write);
    drop(channel);
    recording.join().expect("the record")
}

#[test]
fn clients_are_answered_by_the_enclave_and_say_nothing_to_anybody_else() {
    let house = House::new();
    let (wanted, other) = (image(&house, "wanted"), image(&house, "other"));
    let _one = enclave(&house, &wanted, "one");
    let _other = enclave(&house, &other, "other");
    let folder = |name: &str| house.path("enclaves").join(name);
    let (measured, root) = (pcr0(&house, &wanted), root_pem(&house));
    let client = connector(&house, measured);
    let others = connector(&house, pcr0(&house, &other));

    let relayed = |connector: &Connector, name: &str| {
        let (connector, folder) = (connector.clone(), folder(name));
        move |asked: &Asked| http(&asked_by_the_parent(&connector, &folder, &asked.nonce))
    };
    let old = asked_by_the_parent(&client, &folder("one"), &"07".repeat(32));
    let said_before = recorded(&client, &folder("one"));
    let channel = straight(&client, &folder("one")).expect("a channel");
    let certificate = certificate_for(channel.admitted().public_key().expect("its key"));
    drop(channel);
    let own = DevelopmentRoot::generate().expect("a root");
    // Whoever has the root can sign what he likes; what he leaves out or changes is missed all the same.
    let trusted = std::sync::Arc::new(
        DevelopmentRoot::load_or_create(&house.path("development-root")).expect("the root"),
    );
    let signed = |claims: fn(&Asked) -> [Option<Vec<u8>>; 3]| {
        let root = std::sync::Arc::clone(&trusted);
        move |asked: &Asked| http(&forged(&root, measured, claims(asked)))
    };

    let doors = [
        Door::liar(
            "a certificate of its own, the enclave's document",
            &["public-key", "user-data"],
            relayed(&client, "one"),
        ),
        Door::liar(
            "both of another enclave",
            &["pcr", "public-key", "user-data"],
            relayed(&others, "other"),
        ),
        Door::liar(
            "an old document",
            &["nonce", "public-key", "user-data"],
            move |_| http(&old),
        ),
        Door::liar("a root of its own", &["unknown-root"], move |asked| {
            http(&forged(
                &own,
                measured,
                [
                    Some(nonce(asked)),
                    Some(asked.public_key.clone()),
                    Some(user_data(&asked.exporter)),
                ],
            ))
        }),
        Door::liar(
            "no channel in it",
            &["user-data"],
            signed(|asked| [Some(nonce(asked)), Some(asked.public_key.clone()), None]),
        ),
        Door::liar(
            "the channel without its label",
            &["user-data"],
            signed(|asked| {
                [
                    Some(nonce(asked)),
                    Some(asked.public_key.clone()),
                    Some(asked.exporter.to_vec()),
                ]
            }),
        ),
        Door::liar(
            "another key in it",
            &["public-key"],
            signed(|asked| {
                [
                    Some(nonce(asked)),
                    Some(Papers::new().public_key),
                    Some(user_data(&asked.exporter)),
                ]
            }),
        ),
        Door::liar(
            "no nonce in it",
            &["nonce"],
            signed(|asked| {
                [
                    None,
                    Some(asked.public_key.clone()),
                    Some(user_data(&asked.exporter)),
                ]
            }),
        ),
        Door {
            names: None,
            ..Door::liar("a document that is cut", &[], {
                let relayed = relayed(&client, "one");
                move |asked| {
                    let mut said = relayed(asked);
                    said.bytes.truncate(said.bytes.len() - 1);
                    Said { last: true, ..said }
                }
            })
        },
        Door::liar("an error", &["status"], |_| Said {
            bytes: b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
            last: false,
        }),
        Door::liar("another protocol", &["answer"], |_| Said {
            bytes: b"220 mail.example ESMTP\r\n\r\n".to_vec(),
            last: false,
        }),
        Door {
            name: "the enclave's certificate without its key",
            liar: None,
            names: None,
            port: Liar::with(
                Papers::new(),
                certificate,
                &[&rustls::version::TLS13],
                |_| http(b"never asked"),
            )
            .port,
        },
        Door {
            name: "TLS 1.2",
            liar: None,
            names: None,
            port: {
                let papers = Papers::new();
                let certificate = papers.certificate.clone();
                Liar::with(papers, certificate, &[&rustls::version::TLS12], |_| {
                    http(b"never asked")
                })
                .port
            },
        },
        Door {
            name: "what the enclave said before",
            liar: None,
            names: None,
            port: listening(move |mut stream| {
                let _ = stream.write_all(&said_before);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }),
        },
        Door {
            name: "no TLS",
            liar: None,
            names: None,
            port: listening(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.shutdown(Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }),
        },
        Door {
            name: "an enclave of another image",
            port: honest(folder("other")),
            names: Some(&["pcr"]),
            liar: None,
        },
    ];
    // One whose papers are all in order is believed, so that the lies are told apart.
    let believed = Liar::new(signed(|asked| {
        [
            Some(nonce(asked)),
            Some(asked.public_key.clone()),
            Some(user_data(&asked.exporter)),
        ]
    }));
    let way = honest(folder("one"));

    for door in &doors {
        let error = rust(&client, door.port).expect_err(door.name);
        if let Some(names) = door.names {
            let found: BTreeSet<_> = error.names().into_iter().collect();
            assert_eq!(
                found,
                names.iter().copied().collect(),
                "{}: {error}",
                door.name
            );
        }
    }
    rust(&client, way).expect("the enclave");
    rust(&client, believed.port).expect("papers that are in order");

    for language in LANGUAGES {
        let mut listed: Vec<Value> = doors
            .iter()
            .map(|door| json!({ "name": door.name, "port": door.port }))
            .collect();
        listed.push(json!({ "name": "the enclave", "port": way }));
        for only in ["https", "requests"] {
            listed.push(json!({ "name": "believed", "port": believed.port, "only": only }));
        }
        let plan = json!({
            "roots": [root], "pcr0": measured.to_string(), "doors": listed,
            "honest": way, "other": doors[doors.len() - 1].port,
        });
        let said = drive(&house, language, &plan);
        let ways: BTreeSet<&str> = said
            .iter()
            .filter_map(|said| said["way"].as_str())
            .collect();
        assert!(ways.len() >= 3, "{ways:?}");
        for door in &doors {
            let of: Vec<_> = said
                .iter()
                .filter(|said| said["name"] == door.name)
                .collect();
            assert!(of.len() >= 3, "{language:?}: {}", door.name);
            for said in of {
                assert_eq!(said["outcome"], "refused", "{language:?}: {said}");
                if let Some(names) = door.names {
                    assert_eq!(said["names"], json!(names), "{language:?}: {said}");
                }
            }
        }
        for said in &said {
            let name = said["name"].as_str().expect("a name");
            let expected = match name {
                "the enclave" | "large" | "believed" => "answered",
                "misspelt" => "type error",
                _ => "refused",
            };
            assert_eq!(said["outcome"], expected, "{language:?}: {said}");
            if name == "the enclave" {
                assert_eq!(said["body"], "a secret", "{language:?}: {said}");
            }
        }
        assert!(said.iter().filter(|said| said["name"] == "large").count() >= 3);
        assert!(
            said.iter()
                .filter(|said| said["name"] == "misspelt")
                .count()
                >= 3
        );
    }
    for door in &doors {
        let Some(liar) = &door.liar else { continue };
        assert!(liar.asked.load(Ordering::SeqCst) >= 7, "{}", door.name);
        let heard = liar.heard.lock().expect("no panic");
        assert!(
            heard.is_empty(),
            "{} heard {} bytes",
            door.name,
            heard.len()
        );
    }
    let heard = believed.heard.lock().expect("no panic");
    assert!(heard.windows(SECRET.len()).any(|window| window == SECRET));
}
