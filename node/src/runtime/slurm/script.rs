//! The batch script of a job: made of a task by a pure function.
//!
//! What a task names (arguments, environment, paths) is data for the shell and for `sbatch`, which both read the script:
//!
//! - for the shell every word is quoted ([`quote`]), and nothing of it is expanded;
//! - `sbatch` reads options out of lines that begin with `#SBATCH`, up to the first command. So a command stands first, and
//!   a task's line breaks come after it;
//! - `sbatch` refuses scripts with `\r\n` anywhere. So a carriage return is never written as itself.
//!
//! ```text
//!  check what the job needs ─► write `started` ─► run the program ─► write `ended` ─► wait for `release` ─► exit as it did
//! ```
//!
//! The wait at the end keeps the job's accounting alive until the node has read it: Slurm forgets it with the job unless the
//! site runs a database. It is bounded, so that a node that has died keeps no job ([`RELEASE_TIMEOUT_S`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::program::InvalidProgram;
use crate::runtime::Mount;

/// How long a job whose program has ended waits for the node to read its meters, in seconds; then it ends by itself.
pub(super) const RELEASE_TIMEOUT_S: u32 = 30;
/// Longest arguments and environment together, in bytes, with a word's end each: half of what Linux gives a new program.
/// Longer ones are refused.
pub(super) const WORDS_LEN_MAX: usize = 1 << 20;
/// Longest single argument or variable in bytes, as Linux has it, less its end; a longer one is refused.
pub(super) const WORD_LEN_MAX: usize = (128 << 10) - 1;
/// Files that a task may have open.
const FILES_MAX: u32 = 1_024;
/// Bytes of a block in which POSIX shells count the size of files.
const BLOCK_BYTES: u64 = 512;
/// The code of a script that could not start its program. The absence of `started` tells it from the program's own.
const NOT_STARTED: u8 = 125;
/// In front of a mount's variable.
const MOUNT_PREFIX: &str = "OPENCLOUD_MOUNT_";
/// Where programs look for others, unless the task says otherwise.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The files of a task's directory that the script writes or reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn program(&self) -> PathBuf {
        self.dir.join("program")
    }

    pub(super) fn stdin(&self) -> PathBuf {
        self.dir.join("stdin")
    }

    pub(super) fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.dir.join("stderr")
    }

    /// What Slurm itself says about the job.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Not empty once the program is about to start.
    pub(super) fn started(&self) -> PathBuf {
        self.dir.join("started")
    }

    /// Holds the program's code once it has ended, and after it the times that the shell counted.
    pub(super) fn ended(&self) -> PathBuf {
        self.dir.join("ended")
    }

    /// Holds why the program could not be started.
    pub(super) fn fault(&self) -> PathBuf {
        self.dir.join("fault")
    }

    /// Made by the node when the job may go.
    pub(super) fn release(&self) -> PathBuf {
        self.dir.join("release")
    }
}

/// What the script needs to know of a task.
#[derive(Clone, Debug)]
pub(super) struct Program<'a> {
    pub(super) args: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) has_stdin: bool,
    pub(super) work: &'a Path,
    pub(super) tmp: &'a Path,
    pub(super) mounts: &'a [Mount],
    pub(super) disk_bytes: u64,
    pub(super) processes_max: u32,
}

/// The batch script.
///
/// # Errors
/// When no program could be given these words.
pub(super) fn batch(program: &Program<'_>, files: &Files) -> Result<String, InvalidProgram> {
    check_words(program)?;
    let path = |path: PathBuf| quote_path(&path);
    let (work, tmp) = (quote_path(program.work)?, quote_path(program.tmp)?);
    let stdin = if program.has_stdin { path(files.stdin())? } else { "/dev/null".to_owned() };
    // The first line after the interpreter's is a command, so that nothing below can be an option for sbatch.
    let mut text = "#!/bin/sh\numask 077\nr=$(printf '\\r')\n".to_owned();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!(
        "fail() {{ printf '%s\\n' \"$1\" >{}; exit {NOT_STARTED}; }}",
        path(files.fault())?
    ));
    // The shell's own remarks, such as on how a program was killed, are not the program's output.
    line("exec 2>/dev/null");
    line(&format!("[ -x {} ] || fail 'the program cannot be executed'", path(files.program())?));
    line(&format!("cd {work} || fail 'the work directory cannot be entered'"));
    line(&format!("[ -w . ] && [ -w {tmp} ] || fail 'the task cannot write its directories'"));
    for mount in program.mounts {
        let host = quote_path(&mount.host)?;
        let problem = quote(&format!("the directory for `{}` cannot be read", mount.guest));
        line(&format!("[ -r {host} ] && [ -x {host} ] || fail {problem}"));
    }
    line(&format!("echo started >{}", path(files.started())?));
    line("(");
    line(&format!("ulimit -c 0; ulimit -n {FILES_MAX}"));
    line(&format!("ulimit -f {}", program.disk_bytes / BLOCK_BYTES));
    // Shells disagree on the letter, and a site may already allow fewer.
    line(&format!("ulimit -u {0} || ulimit -p {0}", program.processes_max));
    line(&format!("exec env -i -- {} \\", environment(program)?.join(" ")));
    line(&format!("{} {} \\", path(files.program())?, quoted(program.args)));
    line(&format!("<{stdin} >>{} 2>>{}", path(files.stdout())?, path(files.stderr())?));
    line(")");
    line("code=$?");
    line(&format!("{{ echo \"$code\"; times; }} >{}", path(files.ended())?));
    line("n=0");
    let n_waits = RELEASE_TIMEOUT_S * 10;
    line(&format!("while [ ! -e {} ] && [ $n -lt {n_waits} ]; do", path(files.release())?));
    line("sleep 0.1; n=$((n+1))");
    line("done");
    line("exit $code");
    Ok(text)
}

/// One word of a POSIX shell that stands for exactly this text, without a literal carriage return: for that the script has
/// the variable `r`.
pub(super) fn quote(text: &str) -> String {
    let mut word = String::with_capacity(text.len() + 2);
    word.push('\'');
    for c in text.chars() {
        match c {
            '\'' => word.push_str("'\\''"),
            '\r' => word.push_str("'\"$r\"'"),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote_path(path: &Path) -> Result<String, InvalidProgram> {
    let text = path.to_str().ok_or_else(|| InvalidProgram::Path { path: path.to_owned() })?;
    // A first word with `=` would be a variable for `env`.
    if !path.is_absolute() || text.contains(['=', '\0']) {
        return Err(InvalidProgram::Path { path: path.to_owned() });
    }
    Ok(quote(text))
}

/// The program's whole environment, each variable as one quoted word: what the node gives, and on top what the task says.
fn environment(program: &Program<'_>) -> Result<Vec<String>, InvalidProgram> {
    let text = |path: &Path| path.display().to_string();
    let mut all = BTreeMap::from([
        ("HOME".to_owned(), text(program.work)),
        ("PATH".to_owned(), PATH.to_owned()),
        ("TMPDIR".to_owned(), text(program.tmp)),
    ]);
    for mount in program.mounts {
        let name = mount_variable(&mount.guest);
        if all.insert(name.clone(), text(&mount.host)).is_some() {
            return Err(InvalidProgram::MountName { name });
        }
    }
    all.extend(program.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(all.iter().map(|(name, value)| quote(&format!("{name}={value}"))).collect())
}

/// The variable in which a task finds a mount: `/data/in-1` is `OPENCLOUD_MOUNT_DATA_IN_1`.
#[must_use]
pub fn mount_variable(guest: &str) -> String {
    let name = guest.trim_matches('/').chars();
    let name = name.map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    name.fold(MOUNT_PREFIX.to_owned(), |mut all, c| {
        all.push(c);
        all
    })
}

/// Refuses words that no program on Linux can be given.
fn check_words(program: &Program<'_>) -> Result<(), InvalidProgram> {
    let mut len_all = 0_usize;
    let mut check = |what: &'static str, len: usize, has_nul: bool| {
        len_all = len_all.saturating_add(len).saturating_add(1);
        match () {
            () if has_nul => Err(InvalidProgram::Nul { what }),
            () if len > WORD_LEN_MAX => {
                Err(InvalidProgram::TooLong { what, found: len, max: WORD_LEN_MAX })
            }
            () if len_all > WORDS_LEN_MAX => {
                let what = "arguments and environment";
                Err(InvalidProgram::TooLong { what, found: len_all, max: WORDS_LEN_MAX })
            }
            () => Ok(()),
        }
    };
    for arg in program.args {
        check("argument", arg.len(), arg.contains('\0'))?;
    }
    for (name, value) in program.env {
        if name.is_empty() || name.contains('=') {
            return Err(InvalidProgram::VariableName { name: name.chars().take(100).collect() });
        }
        let has_nul = name.contains('\0') || value.contains('\0');
        check("variable", name.len() + 1 + value.len(), has_nul)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// Shells that are `/bin/sh` somewhere.
    const SHELLS: [&[&str]; 2] = [&["sh"], &["bash", "--posix"]];

    fn program<'a>(args: &'a [String], env: &'a BTreeMap<String, String>) -> Program<'a> {
        let (work, tmp) = (Path::new("/w"), Path::new("/t"));
        Program {
            args,
            env,
            has_stdin: false,
            work,
            tmp,
            mounts: &[],
            disk_bytes: 1 << 20,
            processes_max: 4_096,
        }
    }

    /// What a shell that reads `script` on its standard input writes.
    fn run(shell: &[&str], script: &str) -> Vec<u8> {
        let mut child = Command::new(shell[0])
            .args(&shell[1..])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    /// Texts with what shells care for, apart from NUL, which no word can hold.
    fn text() -> impl Strategy<Value = String> {
        let special = prop::sample::select(vec![
            "'",
            "\"",
            "\\",
            "$",
            "`",
            "\n",
            "\r",
            "\r\n",
            " ",
            "\t",
            "*",
            "?",
            "[",
            "~",
            "!",
            "#",
            ";",
            "&",
            "|",
            "<",
            ">",
            "(",
            ")",
            "{",
            "}",
            "=",
            "-",
            "$(id)",
            "${r}",
            "$r",
            "`id`",
            "\n#SBATCH --hold\n",
            "EOF",
            "\u{81}",
            "\u{88}",
            "\u{1}",
            "\u{7f}",
            "ü",
            "🦀",
        ]);
        let piece =
            prop_oneof![special.prop_map(str::to_owned), "[^\0]{0,6}".prop_map(|text| text)];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_quoted_text_is_one_word_and_exactly_that_text(texts in prop::collection::vec(text(), 1..8)) {
            let words: Vec<String> = texts.iter().map(|text| quote(text)).collect();
            prop_assert!(!words.concat().contains('\r'));
            let script = format!("r=$(printf '\\r')\nprintf '%s\\0' {}\n", words.join(" "));
            let expected: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
            for shell in SHELLS {
                prop_assert_eq!(run(shell, &script), expected.clone(), "{:?}", shell);
            }
        }

        #[test]
        fn a_program_gets_the_arguments_and_variables_of_its_task(
            args in prop::collection::vec(text(), 0..6),
            values in prop::collection::vec(text(), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let files = Files::new(dir.path().to_owned());
            std::os::unix::fs::symlink("/bin/sh", files.program()).unwrap();
            std::fs::write(files.release(), "").unwrap();
            let show = "for a; do printf '%s\\0' \"$a\"; done; exec cat /proc/self/environ";
            let mut given = vec!["-c".to_owned(), show.to_owned(), "sh".to_owned()];
            given.extend(args.iter().cloned());
            let env: BTreeMap<String, String> =
                values.into_iter().enumerate().map(|(n, value)| (format!("V_{n}"), value)).collect();
            let task = Program { work: dir.path(), tmp: dir.path(), ..program(&given, &env) };
            let script = batch(&task, &files).unwrap();
            prop_assert!(!script.contains('\r'));
            let directive = script.find("#SBATCH");
            prop_assert!(directive.is_none_or(|at| script.find("umask").unwrap() < at));
            run(&["sh"], &script);
            let out = String::from_utf8(std::fs::read(files.stdout()).unwrap()).unwrap();
            let mut found = out.split_terminator('\0');
            for arg in &args {
                prop_assert_eq!(found.next(), Some(arg.as_str()));
            }
            let found: Vec<&str> = found.collect();
            for (name, value) in &env {
                let variable = format!("{name}={value}");
                prop_assert!(found.contains(&variable.as_str()), "{:?} in {:?}", variable, found);
            }
        }
    }

    #[test]
    fn the_script_says_how_the_program_ended_and_what_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        std::os::unix::fs::symlink("/bin/sh", files.program()).unwrap();
        std::fs::write(files.release(), "").unwrap();
        for (script, code) in [("exit 7", "7\n"), ("kill -9 $$", "137\n"), ("exit 0", "0\n")] {
            let args = ["-c".to_owned(), script.to_owned()];
            let env = BTreeMap::new();
            let task = Program { work: dir.path(), tmp: dir.path(), ..program(&args, &env) };
            run(&["sh"], &batch(&task, &files).unwrap());
            let ended = std::fs::read_to_string(files.ended()).unwrap();
            assert!(ended.starts_with(code), "{script}: {ended}");
            assert_eq!(ended.lines().count(), 3, "{ended}");
            assert_eq!(std::fs::read_to_string(files.stderr()).unwrap(), "", "{script}");
        }
    }

    #[test]
    fn what_the_job_needs_and_does_not_find_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        let env = BTreeMap::new();
        let mounts = [Mount { host: "/no/such".into(), guest: "/it's data".to_owned() }];
        let told = |task: &Program<'_>| {
            run(&["sh"], &batch(task, &files).unwrap());
            assert!(!files.started().exists());
            std::fs::read_to_string(files.fault()).unwrap()
        };
        let task =
            Program { work: dir.path(), tmp: dir.path(), mounts: &mounts, ..program(&[], &env) };
        assert_eq!(told(&task), "the program cannot be executed\n");
        std::os::unix::fs::symlink("/bin/sh", files.program()).unwrap();
        assert_eq!(told(&task), "the directory for `/it's data` cannot be read\n");
        let task = Program { work: Path::new("/no/such"), ..task };
        assert_eq!(told(&task), "the work directory cannot be entered\n");
    }

    #[test]
    fn mounts_have_variables_and_no_two_share_one() {
        assert_eq!(mount_variable("/share"), "OPENCLOUD_MOUNT_SHARE");
        assert_eq!(mount_variable("/data/in-1/"), "OPENCLOUD_MOUNT_DATA_IN_1");
        let mount = |guest: &str| Mount { host: "/x".into(), guest: guest.to_owned() };
        let (mounts, env) = ([mount("/a-b"), mount("/a/b")], BTreeMap::new());
        let task = Program { mounts: &mounts, ..program(&[], &env) };
        let name = "OPENCLOUD_MOUNT_A_B".to_owned();
        assert_eq!(environment(&task), Err(InvalidProgram::MountName { name }));
    }

    #[test]
    fn words_that_no_program_can_be_given_are_refused() {
        let files = Files::new("/f".into());
        let none = BTreeMap::new();
        let long = "x".repeat(WORD_LEN_MAX);
        for (args, is_fine) in [
            (vec![long.clone()], true),
            (vec![format!("{long}x")], false),
            (vec![long.clone(); 7], true),
            (vec![long; 9], false),
            (vec!["a\0b".to_owned()], false),
        ] {
            assert_eq!(batch(&program(&args, &none), &files).is_ok(), is_fine);
        }
        for name in ["", "a=b", "\0"] {
            let env = BTreeMap::from([(name.to_owned(), String::new())]);
            assert!(batch(&program(&[], &env), &files).is_err(), "{name:?}");
        }
        for dir in ["relative", "/a=b"] {
            assert!(batch(&program(&[], &none), &Files::new(dir.into())).is_err(), "{dir}");
        }
    }
}
