//! The scripts that run in a pod: made of a task by pure functions, and read by the shell of busybox.
//!
//! What a task names (arguments, environment) is data for that shell: every word is quoted, and nothing of it is expanded.
//! It stands in a file that the pod is given, not in the pod's own description: there it would be expanded (`$(NAME)`), held
//! to the size of an object of the API, and shown to everybody who may look at pods.
//!
//! ```text
//!  files   copy busybox for the task ─► wait for `go`, which the node sets when all files are there
//!  task    note the time ─► run the program with its own streams ─► note its end and what the kernel has counted
//!  keep    stay, so that the node can take out what the task leaves
//! ```

use std::collections::BTreeMap;

use crate::runtime::InvalidImage;

/// Where a task finds what the node gives its pod, read-only.
pub(super) const GIVEN: &str = "/opencloud";
/// Where a task's streams are.
pub(super) const STREAMS: &str = "/opencloud-io";
/// Where the containers of the node find both, and the task's directories.
pub(super) const STAGE: &str = "/stage";
/// How long a pod waits for its files, in seconds; then it ends by itself. A node that has died keeps no pod.
pub(super) const FILES_TIMEOUT_S: u64 = 1_800;
/// Longest arguments and environment together, in bytes, with a word's end each: half of what Linux gives a new program.
/// Longer ones are refused.
const WORDS_LEN_MAX: usize = 1 << 20;
/// Longest single argument or variable in bytes, as Linux has it, less its end; a longer one is refused.
const WORD_LEN_MAX: usize = (128 << 10) - 1;
/// Files that a task may have open.
const FILES_MAX: u32 = 1_024;
/// Bytes of a block in which POSIX shells count the size of files.
const BLOCK_BYTES: u64 = 512;
/// The code of a script that could not start its program. The absence of `started` tells it from the program's own.
pub(super) const NOT_STARTED: i32 = 125;
/// Variables that nobody has asked for: by which every pod is told of the API server, and which the shell in front of the
/// program sets.
const UNASKED: [&str; 11] = [
    "KUBERNETES_PORT",
    "KUBERNETES_PORT_443_TCP",
    "KUBERNETES_PORT_443_TCP_ADDR",
    "KUBERNETES_PORT_443_TCP_PORT",
    "KUBERNETES_PORT_443_TCP_PROTO",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "KUBERNETES_SERVICE_PORT_HTTPS",
    "OLDPWD",
    "PWD",
    "SHLVL",
];

/// What the start of a task needs to know of it.
#[derive(Clone, Debug)]
pub(super) struct Program<'a> {
    /// The whole command: entry point and arguments.
    pub(super) command: &'a [String],
    /// On top of the image's own.
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) has_stdin: bool,
    /// No file may be longer.
    pub(super) disk_bytes: u64,
}

/// The script that becomes the first process of the task's container.
///
/// # Errors
/// When no program could be given these words.
pub(super) fn start(program: &Program<'_>) -> Result<String, InvalidImage> {
    check(program)?;
    let stdin = if program.has_stdin { format!("{STREAMS}/stdin") } else { "/dev/null".to_owned() };
    let mut words: Vec<String> = UNASKED
        .iter()
        .filter(|name| !program.env.contains_key(**name))
        .map(|name| format!("-u {name}"))
        .collect();
    words.push("--".to_owned());
    words.extend(program.env.iter().map(|(name, value)| quote(&format!("{name}={value}"))));
    words.extend(program.command.iter().map(|word| quote(word)));
    Ok(format!(
        "b={GIVEN}/busybox; io={STREAMS}\n\
         exec 2>/dev/null\n\
         cd /work && [ -w . ] && [ -w /tmp ] || exit {NOT_STARTED}\n\
         read begun rest </proc/uptime\n\
         echo started >$io/started\n\
         (\n\
         ulimit -c 0; ulimit -n {FILES_MAX}; ulimit -f {blocks}\n\
         exec $b env {words} <{stdin} >>$io/stdout 2>>$io/stderr\n\
         )\n\
         code=$?\n\
         read ended rest </proc/uptime\n\
         {{ echo \"$begun $ended\"; {reading} }} >$io/ended\n\
         exit $code\n",
        blocks = program.disk_bytes / BLOCK_BYTES,
        words = words.join(" "),
        reading = READING.trim(),
    ))
}

/// Prints one line of what the kernel counts for this container, of cgroups of either version; what it does not find is
/// empty. Only builtins of the shell: a reading costs the task nothing.
const READING: &str = r#"
c=; m=; p=; o=; r=0; w=0; g=/sys/fs/cgroup;
if [ -r $g/cpu.stat ] && [ -r $g/memory.current ]; then
while read k v; do [ "$k" = usage_usec ] && c=$v; done <$g/cpu.stat;
read m <$g/memory.current; read p <$g/memory.peak;
while read k v; do [ "$k" = oom_kill ] && o=$v; done <$g/memory.events;
while read d k; do for k in $k; do case $k in rbytes=*) r=$((r+${k#*=}));; wbytes=*) w=$((w+${k#*=}));; esac; done; done <$g/io.stat;
elif [ -r $g/cpuacct/cpuacct.usage ]; then
read c <$g/cpuacct/cpuacct.usage; c=$((c/1000));
read m <$g/memory/memory.usage_in_bytes; read p <$g/memory/memory.max_usage_in_bytes;
while read k v; do [ "$k" = oom_kill ] && o=$v; done <$g/memory/memory.oom_control;
fi;
echo "cpu_us=$c memory=$m peak=$p oom_kills=$o io=$((r+w))";
"#;

/// The command that prints a reading each second, as long as the container lives.
pub(super) fn gauge() -> String {
    format!("exec 2>/dev/null\nwhile :; do\n{}\n{GIVEN}/busybox sleep 1\ndone\n", READING.trim())
}

/// The command of the container that waits for the pod's files.
pub(super) fn files() -> String {
    let n_waits = FILES_TIMEOUT_S * 5;
    format!(
        "mkdir -p {STAGE}/given/mounts {STAGE}/own/work {STAGE}/own/tmp {STAGE}/own/io || exit 1\n\
         b=$(command -v busybox); [ -f \"$b\" ] || b=/bin/busybox\n\
         cp \"$b\" {STAGE}/given/busybox && chmod 555 {STAGE}/given/busybox || exit 1\n\
         n=0\n\
         while [ ! -e {STAGE}/given/go ]; do\n\
         [ $n -lt {n_waits} ] || exit 1\n\
         sleep 0.2; n=$((n+1))\n\
         done\n"
    )
}

/// The command that takes the pod's files from its input, an archive of that many bytes, prints how many KiB the task's
/// directories take with them, and lets the pod go on.
pub(super) fn take(bytes: u64) -> String {
    format!(
        "head -c {bytes} | tar -x -f - -C {STAGE} && chmod 555 {STAGE}/given/start && du -s -k {STAGE}/own && : >{STAGE}/given/go"
    )
}

/// The command of the container that stays until the node has taken what the task leaves, `seconds` at most.
pub(super) fn keep(seconds: u64) -> String {
    // The first process of a container ends at no signal that it does not ask for.
    format!("trap 'exit 0' TERM; sleep {seconds} & wait")
}

/// The command that prints both output streams from these positions on as they grow.
pub(super) fn follow(stdout: u64, stderr: u64) -> String {
    let (stdout, stderr) = (stdout.saturating_add(1), stderr.saturating_add(1));
    format!(
        "cd {STAGE}/own/io; : >>stdout; : >>stderr; tail -c +{stdout} -f stdout & tail -c +{stderr} -f stderr >&2 & wait"
    )
}

/// Puts files in the place of streams that are none any more: the task may have left a pipe there, which nobody feeds.
const PLAIN: &str = "for f in stdout stderr; do [ -f $f ] || { rm -rf $f; : >$f; }; done";

/// The command that prints what is left of both output streams from these positions on.
pub(super) fn rest(stdout: u64, stderr: u64) -> String {
    let (stdout, stderr) = (stdout.saturating_add(1), stderr.saturating_add(1));
    format!("cd {STAGE}/own/io; {PLAIN}; tail -c +{stdout} stdout && tail -c +{stderr} stderr >&2")
}

/// The command that prints every other second how many KiB the task's directories take.
pub(super) fn measure() -> String {
    format!("while :; do du -s -k {STAGE}/own; sleep 2; done")
}

/// The command that prints how long the task's output is and what its files take, after an empty line what its start has noted,
/// and `whole` at last: the end of an answer can be lost on its way without anybody being told. What stands behind the empty line
/// is in the task's hands.
pub(super) fn notes() -> String {
    format!(
        "cd {STAGE}/own/io; {PLAIN}; echo \"out=$(wc -c <stdout) err=$(wc -c <stderr)\"; du -s -k {STAGE}/own; echo; \
         [ -e started ] && echo started; [ -f ended ] && head -c 1000 ended; echo; echo whole"
    )
}

/// The command that prints the work directory as an archive, and after it this mark, by which an early end is seen.
pub(super) fn give_back(mark: &str) -> String {
    // Whatever the task has closed, its user can open.
    format!(
        "cd {STAGE}/own && chmod u+rwx work && cd work && chmod -R u+rwX . && tar -c -f - . && printf %s {}",
        quote(mark)
    )
}

/// One word of a POSIX shell that stands for exactly this text.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Refuses words that no program on Linux can be given.
fn check(program: &Program<'_>) -> Result<(), InvalidImage> {
    let refuse = |detail: String| Err(InvalidImage::Refused { detail });
    match program.command.first() {
        None => return refuse("neither the step nor the image names a program".to_owned()),
        Some(name) if name.is_empty() || name.contains('=') || name.starts_with('-') => {
            return refuse("the program's name is empty, holds `=` or begins with `-`".to_owned());
        }
        Some(_) => {}
    }
    let mut len_all = 0_usize;
    let variables = program.env.iter().map(|(name, value)| name.len() + 1 + value.len());
    for len in program.command.iter().map(String::len).chain(variables) {
        len_all = len_all.saturating_add(len).saturating_add(1);
        if len > WORD_LEN_MAX {
            return refuse(format!(
                "an argument or variable has {len} bytes, at most {WORD_LEN_MAX} are taken; put it into a file"
            ));
        }
    }
    if len_all > WORDS_LEN_MAX {
        return refuse(format!(
            "arguments and variables have {len_all} bytes, at most {WORDS_LEN_MAX} are taken; put them into a file"
        ));
    }
    let has_nul = program.command.iter().any(|word| word.contains('\0'))
        || program.env.iter().any(|(name, value)| name.contains('\0') || value.contains('\0'));
    if has_nul {
        return refuse("an argument or variable holds a zero byte".to_owned());
    }
    if let Some(name) = program.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        let name: String = name.chars().take(100).collect();
        return refuse(format!("`{name}` is no name of a variable"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// The script as it would run in a pod whose directories lie below `dir` and whose shell is this machine's.
    fn run(dir: &Path, script: &str) -> Vec<u8> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let script = script
            .replace(&format!("{GIVEN}/busybox"), "")
            .replace(STREAMS, &text(dir))
            .replace("cd /work", &format!("cd {}", text(dir)))
            .replace("exec $b env", "exec env");
        let mut shell =
            Command::new("sh").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        shell.wait_with_output().unwrap().stdout
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn program<'a>(command: &'a [String], env: &'a BTreeMap<String, String>) -> Program<'a> {
        Program { command, env, has_stdin: false, disk_bytes: 1 << 20 }
    }

    #[test]
    fn words_arrive_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let hostile = [
            "", " ", "it's", "\"", "\\", "$HOME", "$(NAME)", "$$", "`id`", "*", "a\nb", "\r", "--",
            "ü🦀",
        ];
        let command = [&["printf", "%s\\0"][..], &hostile].concat();
        let env = BTreeMap::from([("A".to_owned(), "x'\n$(y)".to_owned())]);
        run(dir.path(), &start(&program(&words(&command), &env)).unwrap());
        let out = std::fs::read_to_string(dir.path().join("stdout")).unwrap();
        assert_eq!(out.split_terminator('\0').collect::<Vec<_>>(), hostile);

        std::fs::remove_file(dir.path().join("stdout")).unwrap();
        run(dir.path(), &start(&program(&words(&["printenv", "A"]), &env)).unwrap());
        assert_eq!(std::fs::read_to_string(dir.path().join("stdout")).unwrap(), "x'\n$(y)\n");
    }

    #[test]
    fn the_start_notes_when_the_program_ran_and_what_the_kernel_counted() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &start(&program(&words(&["false"]), &BTreeMap::new())).unwrap());
        assert!(dir.path().join("started").exists());
        let ended = std::fs::read_to_string(dir.path().join("ended")).unwrap();
        let mut lines = ended.lines();
        let times: Vec<f64> =
            lines.next().unwrap().split(' ').map(|time| time.parse().unwrap()).collect();
        assert!(times[0] <= times[1], "{times:?}");
        assert!(lines.next().unwrap().starts_with("cpu_us="), "{ended}");
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn the_cluster_is_not_told_to_the_program() {
        let command = words(&["env"]);
        let script = start(&program(&command, &BTreeMap::new())).unwrap();
        assert!(script.contains("-u KUBERNETES_SERVICE_HOST "), "{script}");
        let env = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "own".to_owned())]);
        let script = start(&program(&command, &env)).unwrap();
        assert!(!script.contains("-u KUBERNETES_SERVICE_HOST "), "{script}");
        assert!(script.contains("'KUBERNETES_SERVICE_HOST=own'"), "{script}");
    }

    #[test]
    fn words_that_no_program_can_be_given_are_refused() {
        let none = BTreeMap::new();
        let long = "x".repeat(WORD_LEN_MAX);
        for (command, is_fine) in [
            (vec!["p".to_owned(), long.clone()], true),
            (vec!["p".to_owned(), format!("{long}x")], false),
            ([vec!["p".to_owned()], vec![long; 9]].concat(), false),
            (words(&["p", "a\0b"]), false),
            (words(&[]), false),
            (words(&[""]), false),
            (words(&["a=b"]), false),
            (words(&["-i"]), false),
        ] {
            assert_eq!(start(&program(&command, &none)).is_ok(), is_fine);
        }
        for name in ["", "a=b", "\0"] {
            let env = BTreeMap::from([(name.to_owned(), String::new())]);
            assert!(start(&program(&words(&["p"]), &env)).is_err(), "{name:?}");
        }
    }

    #[test]
    fn all_scripts_are_ones() {
        let command = words(&["p"]);
        let env = BTreeMap::new();
        for script in [
            start(&program(&command, &env)).unwrap(),
            gauge(),
            files(),
            take(1),
            keep(1),
            follow(0, 0),
            rest(0, 0),
            measure(),
            notes(),
            give_back("it's"),
        ] {
            let checked = Command::new("sh").args(["-n", "-c", &script]).status().unwrap();
            assert!(checked.success(), "{script}");
        }
    }
}
