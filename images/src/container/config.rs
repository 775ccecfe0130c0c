//! What a container image says about how it is to be run, and the job that it becomes.
//!
//! `Entrypoint`, `Cmd`, `Env`, `WorkingDir` and `User` fill in what the manifest leaves open; what the manifest says,
//! it says. Names of programs and users are looked up in the image, once, so that the manifest in the image says
//! exactly what runs. `Volumes`, `ExposedPorts`, `Healthcheck` and the like have no meaning in an enclave.

use std::collections::BTreeMap;
use std::path::Path;

use anchorhold_manifest::{JobDefaults, User};
use serde::Deserialize;

use super::error::ContainerError;
use crate::contents::{Contents, Found};

/// As Docker has it where an image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Far more than any `/etc/passwd` has.
const MAX_USERS_BYTES: u64 = 1 << 20;

/// An image's configuration.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default, rename = "config")]
    execution: Option<Execution>,
    rootfs: RootFs,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl Config {
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Config, ContainerError> {
        let config: Config =
            serde_json::from_slice(bytes).map_err(|source| ContainerError::Json {
                name: name.to_owned(),
                source,
            })?;
        if config.rootfs.kind != "layers" {
            return Err(ContainerError::Config(format!(
                "its root file system is of the type {:?}, and \"layers\" is the only one there is",
                config.rootfs.kind
            )));
        }
        Ok(config)
    }

    pub(super) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// `os/architecture`
    pub(super) fn platform(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }

    /// What metadata says about it, under Docker's names.
    pub(crate) fn for_metadata(&self) -> serde_json::Value {
        let config = self.execution.clone().unwrap_or_default();
        serde_json::json!({
            "Architecture": self.architecture,
            "Os": self.os,
            "Config": {
                "Entrypoint": config.entrypoint,
                "Cmd": config.cmd,
                "Env": config.env,
                "WorkingDir": config.working_dir.unwrap_or_default(),
                "User": config.user.unwrap_or_default(),
            },
            "RootFS": { "Type": self.rootfs.kind, "Layers": self.rootfs.diff_ids },
        })
    }
}

/// The job that an image describes.
pub(crate) fn job(config: &Config, contents: &Contents) -> Result<JobDefaults, ContainerError> {
    let execution = config.execution.clone().unwrap_or_default();
    let refuse = |problem: String| Err(ContainerError::Config(problem));
    let mut environment = BTreeMap::new();
    for variable in execution.env.unwrap_or_default() {
        let Some((name, value)) = variable.split_once('=') else {
            return refuse(format!("Env has {variable:?}, which is no NAME=value"));
        };
        environment.insert(name.to_owned(), value.to_owned());
    }
    let working_directory = execution
        .working_dir
        .filter(|folder| !folder.is_empty())
        .map(|folder| {
            let plain = folder.trim_end_matches('/');
            if plain.is_empty() { "/" } else { plain }.to_owned()
        });
    let mut command = execution.entrypoint.unwrap_or_default();
    command.extend(execution.cmd.unwrap_or_default());
    if let Some(program) = command.first_mut() {
        let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let folder = working_directory.as_deref().unwrap_or("/");
        *program = program_path(contents, program, path, folder)?;
    }
    let user = match execution.user.filter(|user| !user.is_empty()) {
        Some(user) => find_user(contents, &user)?,
        None => None,
    };
    Ok(JobDefaults {
        command,
        environment,
        working_directory,
        user,
    })
}

/// A program's absolute path: names without a slash are looked up in `PATH`.
fn program_path(
    contents: &Contents,
    program: &str,
    path: &str,
    folder: &str,
) -> Result<String, ContainerError> {
    let joined = |folder: &str, name: &str| format!("{}/{name}", folder.trim_end_matches('/'));
    if program.starts_with('/') {
        return Ok(program.to_owned());
    }
    if program.contains('/') {
        let relative = program.strip_prefix("./").unwrap_or(program);
        return Ok(joined(folder, relative));
    }
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| joined(folder, program))
        .find(|path| {
            matches!(contents.resolve(Path::new(path)), Ok(Found::File(file)) if contents.is_executable(file))
        })
        .ok_or_else(|| {
            ContainerError::Config(format!(
                "it runs {program}, which is in none of the folders {path} of the image: name the program by its path, \
                 in the image or as job.command in the manifest"
            ))
        })
}

/// `user[:group]`, each a name or a number. Root is nobody in particular: an enclave's job never runs as root.
fn find_user(contents: &Contents, text: &str) -> Result<Option<User>, ContainerError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let unknown = |name: &str, file: &str| {
        ContainerError::Config(format!(
            "User is {text:?}, and the image's {file} has no {name}: give numbers, in the image or as job.user in the \
             manifest"
        ))
    };
    let users = records(contents, "/etc/passwd")?;
    let found = match user.parse::<u32>() {
        Ok(number) => users
            .iter()
            .find(|record| record.get(2).and_then(|id| id.parse().ok()) == Some(number)),
        Err(_) => Some(
            users
                .iter()
                .find(|record| record.first().map(String::as_str) == Some(user))
                .ok_or_else(|| unknown(user, "/etc/passwd"))?,
        ),
    };
    let field = |index: usize| found.and_then(|record| record.get(index)?.parse::<u32>().ok());
    let uid = user
        .parse()
        .ok()
        .or_else(|| field(2))
        .ok_or_else(|| unknown(user, "/etc/passwd"))?;
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(number) => number,
            Err(_) => records(contents, "/etc/group")?
                .iter()
                .find(|record| record.first().map(String::as_str) == Some(group))
                .and_then(|record| record.get(2)?.parse().ok())
                .ok_or_else(|| unknown(group, "/etc/group"))?,
        },
        // Docker takes root's group for a number that has no entry; a job has no use for that one.
        None => field(3).unwrap_or(uid),
    };
    if uid == 0 {
        return Ok(None);
    }
    Ok(Some(User {
        uid,
        gid: if gid == 0 { uid } else { gid },
    }))
}

/// The lines of a file like `/etc/passwd`, in their fields. None where there is no such file.
fn records(contents: &Contents, path: &str) -> Result<Vec<Vec<String>>, ContainerError> {
    let Ok(Found::File(file)) = contents.resolve(Path::new(path)) else {
        return Ok(Vec::new());
    };
    let size = contents.len_of(file);
    if size > MAX_USERS_BYTES {
        return Err(ContainerError::TooLarge {
            name: path.to_owned(),
            size,
            limit: MAX_USERS_BYTES,
        });
    }
    let text = contents
        .start_of(file, size)
        .map_err(|error| ContainerError::Config(format!("{path} cannot be read: {error}")))?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect())
}
