//! Tokens that custom key stores may be made of. AWS calls what holds a key store's keys a cluster.
//!
//! Clients name clusters by their ids; which module is loaded for one is said here and nowhere else.

use super::ConfigError;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A PKCS#11 token for the custom key stores of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// `cluster-` and 11 to 16 of the letters, and the digits 2 to 7.
    pub id: String,
    /// The account that may use it, twelve digits.
    pub account: String,
    /// The PKCS#11 module (a shared library).
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// DER of the certificate that must be presented for it. Tokens that share one are copies of each other.
    pub trust_anchor: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterTable {
    id: String,
    account: String,
    module: PathBuf,
    token: String,
    trust_anchor: Option<PathBuf>,
}

pub(super) fn read(tables: Vec<ClusterTable>, base: &Path) -> Result<Vec<Cluster>, ConfigError> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for table in tables {
        let wrong = |why| ConfigError::Cluster {
            id: table.id.clone(),
            why,
        };
        if !is_id(&table.id) {
            return Err(wrong(
                "an id is cluster- and 11 to 16 letters or digits from 2 to 7",
            ));
        }
        if table.account.len() != 12 || !table.account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("its account is not twelve digits"));
        }
        let trust_anchor = match &table.trust_anchor {
            None => None,
            Some(path) => {
                let text = super::read(&base.join(path))?;
                let found = CertificateDer::from_pem_slice(text.as_bytes())
                    .map_err(|_| wrong("its trust_anchor is not a certificate in PEM"))?;
                Some(found.as_ref().to_vec())
            }
        };
        let cluster = Cluster {
            module: base.join(&table.module),
            account: table.account.clone(),
            token: table.token.clone(),
            trust_anchor,
            id: table.id.clone(),
        };
        for other in &clusters {
            if other.id == cluster.id {
                return Err(wrong("there is another one of this id"));
            }
            // One login for each token: its user would be logged out under the other's feet.
            if other.token == cluster.token && other.module == cluster.module {
                return Err(wrong("its token belongs to another cluster already"));
            }
        }
        clusters.push(cluster);
    }
    Ok(clusters)
}

fn is_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphabetic() || (b'2'..=b'7').contains(&b);
    id.strip_prefix("cluster-")
        .is_some_and(|name| (11..=16).contains(&name.len()) && name.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(id: &str, token: &str) -> ClusterTable {
        ClusterTable {
            id: id.to_owned(),
            account: "111122223333".to_owned(),
            module: PathBuf::from("module.so"),
            token: token.to_owned(),
            trust_anchor: None,
        }
    }

    #[test]
    fn a_cluster_has_an_id_of_awss_form_and_a_token_of_its_own() {
        let base = Path::new("/etc/kms");
        let good = read(
            vec![
                table("cluster-abcdefg2345", "a"),
                table("cluster-abcdefg2346", "b"),
            ],
            base,
        )
        .unwrap();
        assert_eq!(good[0].module, Path::new("/etc/kms/module.so"));
        for bad in [
            vec![table("cluster-short", "a")],
            vec![table("cluster-abcdefg1890", "a")],
            vec![table("cluster-aaaaaaaaaaaaaaaaa", "a")],
            vec![table("custer-abcdefg2345", "a")],
            vec![
                table("cluster-abcdefg2345", "a"),
                table("cluster-abcdefg2345", "b"),
            ],
            vec![
                table("cluster-abcdefg2345", "a"),
                table("cluster-abcdefg2346", "a"),
            ],
            vec![ClusterTable {
                account: "1".to_owned(),
                ..table("cluster-abcdefg2345", "a")
            }],
            vec![ClusterTable {
                trust_anchor: Some(PathBuf::from("/nowhere.pem")),
                ..table("cluster-abcdefg2345", "a")
            }],
        ] {
            assert!(read(bad, base).is_err());
        }
    }
}
