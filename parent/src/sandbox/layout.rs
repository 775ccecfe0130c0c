//! Recognises images in AWS's own layout, as nitro-cli builds them from container images, and says what runs of one in the
//! sandbox. It must never take an image of ours for one: where there is a manifest, nobody asks here.
//!
//! Such an image has AWS's init (and the NSM's driver) in the first ramdisk, and in the second the container's files below
//! `/rootfs`, its command in `/cmd` and its environment in `/env`, a line for each word. That init mounts file systems, loads
//! the driver, beats, changes the root to `/rootfs` and starts the command (aws-nitro-enclaves-sdk-bootstrap, `init.c`). All but
//! the last is what the sandbox has done by itself when the first instruction of an enclave runs, or forbids to everybody
//! inside. So the command runs at once, with `/rootfs` as its root, and the supervisor beats in the init's place.

use std::ffi::CString;

use super::Program;
use super::image::UnpackError;
use super::root::Entry;

/// What the launch report says of such an image.
pub(crate) const NOT_RUN: &str = "the image's own /init, which is measured but not run: the command of /cmd is the enclave's first process, with /rootfs as its root";

const FOLDER: &[u8] = b"rootfs";
const COMMAND: &[u8] = b"cmd";
const ENVIRONMENT: &[u8] = b"env";
/// Bytes of `/cmd` and of `/env`. The kernel takes little more of both together.
const MOST: usize = 256 << 10;

/// Where that init looks for a command without a slash, and the environment where the image has none.
const SEARCHED: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];
const PATH: &str = "PATH=/sbin:/usr/sbin:/bin:/usr/bin";
/// What it starts where the image names no command.
const SHELL: &str = "sh";

/// The root file system of an image without a manifest, and what runs in it.
pub(crate) fn program(entries: Vec<Entry>) -> Result<(Vec<Entry>, Program), UnpackError> {
    let has_root = entries
        .iter()
        .any(|entry| entry.path().to_bytes() == FOLDER && entry.is_directory());
    let Some(command) = file(&entries, COMMAND).filter(|_| has_root) else {
        return Ok((entries, Program::init()));
    };
    let word = |text: &str| CString::new(text).expect("a word of ours holds no zero byte");
    let mut arguments = lines("/cmd", command)?;
    if arguments.is_empty() {
        arguments.push(word(SHELL));
    }
    let mut environment = lines("/env", file(&entries, ENVIRONMENT).unwrap_or_default())?;
    if environment.is_empty() {
        environment.push(word(PATH));
    }
    let name = arguments[0].to_bytes();
    let paths = if name.contains(&b'/') {
        vec![arguments[0].clone()]
    } else {
        SEARCHED
            .iter()
            .filter_map(|folder| CString::new([folder.as_bytes(), b"/", name].concat()).ok())
            .collect()
    };
    let program = Program {
        paths,
        arguments,
        environment,
        is_command: true,
    };
    let entries = entries
        .into_iter()
        .filter_map(|entry| entry.below(FOLDER))
        .collect();
    Ok((entries, program))
}

/// The bytes of a file as the last entry of that name leaves it.
fn file<'e>(entries: &'e [Entry], path: &[u8]) -> Option<&'e [u8]> {
    entries
        .iter()
        .rev()
        .find(|entry| entry.path().to_bytes() == path)
        .and_then(Entry::file)
}

/// The lines of a file, as a C program has them: a zero byte ends a line early.
fn lines(name: &'static str, bytes: &[u8]) -> Result<Vec<CString>, UnpackError> {
    if bytes.len() > MOST {
        return Err(UnpackError::TooLong { name, most: MOST });
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
            CString::new(line).expect("it was cut at its first zero byte")
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Content;
    use proptest::prelude::*;

    fn entry(path: &str, content: Content) -> Entry {
        Entry::new(path.as_bytes(), 0o755, 0, 0, content).unwrap()
    }

    fn file(path: &str, bytes: &[u8]) -> Entry {
        entry(path, Content::File(bytes.to_vec()))
    }

    fn image(command: &[u8], environment: &[u8]) -> Vec<Entry> {
        vec![
            file("init", b"AWS's"),
            file("nsm.ko", b"a driver"),
            entry("rootfs", Content::Directory),
            entry("rootfs/bin", Content::Directory),
            file("rootfs/bin/app", b"the application"),
            file("cmd", command),
            file("env", environment),
        ]
    }

    fn texts(strings: &[CString]) -> Vec<&str> {
        strings.iter().map(|text| text.to_str().unwrap()).collect()
    }

    #[test]
    fn the_command_runs_in_rootfs_with_its_environment() {
        let (entries, program) =
            program(image(b"/bin/app\n--port\n5000\n", b"A=1\nB=two words\n")).unwrap();
        assert!(program.is_command);
        assert_eq!(texts(&program.paths), ["/bin/app"]);
        assert_eq!(texts(&program.arguments), ["/bin/app", "--port", "5000"]);
        assert_eq!(texts(&program.environment), ["A=1", "B=two words"]);
        let paths: Vec<_> = entries
            .iter()
            .map(|entry| entry.path().to_str().unwrap())
            .collect();
        assert_eq!(paths, [".", "bin", "bin/app"]);
    }

    #[test]
    fn what_the_image_leaves_out_is_as_awss_init_has_it() {
        let (_, program) = super::program(image(b"", b"")).unwrap();
        assert_eq!(texts(&program.arguments), ["sh"]);
        assert_eq!(
            texts(&program.paths),
            ["/sbin/sh", "/usr/sbin/sh", "/bin/sh", "/usr/bin/sh"]
        );
        assert_eq!(
            texts(&program.environment),
            ["PATH=/sbin:/usr/sbin:/bin:/usr/bin"]
        );
        // No end of the last line; an empty word; a zero byte.
        let (_, program) = super::program(image(b"app\n\nlast\0hidden", b"A=")).unwrap();
        assert_eq!(texts(&program.arguments), ["app", "", "last"]);
        assert_eq!(texts(&program.environment), ["A="]);
    }

    #[test]
    fn other_images_start_their_init() {
        for missing in ["cmd", "rootfs"] {
            let entries: Vec<Entry> = image(b"/bin/app\n", b"")
                .into_iter()
                .filter(|entry| entry.path().to_str() != Ok(missing))
                .collect();
            let (kept, program) = super::program(entries.clone()).unwrap();
            assert_eq!(program, Program::init());
            assert_eq!(kept, entries);
        }
    }

    #[test]
    fn a_command_without_end_is_refused() {
        let error = super::program(image(&vec![b'\n'; MOST + 1], b"")).unwrap_err();
        assert!(error.to_string().contains("/cmd"), "{error}");
    }

    proptest! {
        #[test]
        fn any_command_and_environment_make_a_program(command: Vec<u8>, environment: Vec<u8>) {
            let (_, program) = super::program(image(&command, &environment)).unwrap();
            prop_assert!(!program.arguments.is_empty() && !program.environment.is_empty() && !program.paths.is_empty());
        }
    }
}
