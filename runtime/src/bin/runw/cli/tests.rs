use super::*;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

fn parse(words: &str) -> Result<Arguments, String> {
    Arguments::parse(words.split_whitespace().map(OsString::from), "runw")
}

fn wrong(words: &str) -> String {
    parse(words).expect_err(words)
}

#[test]
fn durations_are_written_as_in_go() {
    assert_eq!("1m30.5s".parse(), Ok(Interval(Duration::from_millis(90_500))));
    assert_eq!("100ms".parse(), Ok(Interval(Duration::from_millis(100))));
    for wrong in ["", "0s", "5", "s", "5x", "-1s", "1..5s"] {
        assert!(wrong.parse::<Interval>().is_err(), "{wrong:?}");
    }
}

#[test]
fn options_stand_before_and_after_the_id_in_every_form() {
    for words in [
        "run -d --bundle dir --preserve-fds=3 box",
        "run box -dbdir --preserve-fds 3",
        "run --detach=true -b=dir box --preserve-fds 2 --preserve-fds 3",
        "run -d -b dir --preserve-fds 3 -- box",
    ] {
        let Ok(Arguments { command: Command::Run(options), .. }) = parse(words) else { panic!("{words}") };
        assert!(options.detach && !options.keep, "{words}");
        assert_eq!((&*options.create.id, options.create.preserve_fds), ("box", 3), "{words}");
        assert_eq!(options.create.bundle, PathBuf::from("dir"), "{words}");
    }
    let Ok(Arguments { command: Command::Run(options), .. }) = parse("run --detach=false box") else { panic!() };
    assert!(!options.detach);
    assert_eq!(options.create.bundle, PathBuf::from("."));
}

#[test]
fn what_follows_the_id_of_exec_and_ps_is_another_program_s() {
    for words in ["exec -t box ls -l --help", "exec -t box -- ls -l --help"] {
        let Ok(Arguments { command: Command::Exec(options), .. }) = parse(words) else { panic!("{words}") };
        assert!(options.tty);
        assert_eq!(options.command, ["ls", "-l", "--help"], "{words}");
    }
    let Ok(Arguments { command: Command::Exec(options), .. }) =
        parse("exec -e A=1 --env=B=2 -g 5 -g 6 --no-new-privs box x")
    else {
        panic!()
    };
    assert_eq!((&options.env[..], &options.additional_gids[..]), (&["A=1".into(), "B=2".into()][..], &[5, 6][..]));
    assert!(options.no_new_privs.is_some_and(|switch| switch.0));
    let Ok(Arguments { command: Command::Ps(options), .. }) = parse("ps -f json box -ef") else { panic!() };
    assert_eq!((options.format, &options.options[..]), (ListFormat::Json, &["-ef".to_string()][..]));
}

#[test]
fn numbers_below_zero_are_values() {
    let Ok(Arguments { command: Command::Update(options), .. }) = parse("update --memory-swap -1 --cpu-quota=-1 box")
    else {
        panic!()
    };
    assert_eq!((options.memory_swap.as_deref(), options.cpu_quota), (Some("-1"), Some(-1)));
}

#[test]
fn options_before_the_command_are_the_program_s() {
    let arguments = parse("--root /r --log-format json --rootless false --debug list -q").expect("parse");
    assert_eq!(arguments.options.root, Some(PathBuf::from("/r")));
    assert_eq!((arguments.options.log_format, arguments.options.rootless), (LogFormat::Json, Rootless(Some(false))));
    assert!(arguments.options.debug && !arguments.options.systemd_cgroup);
    assert!(matches!(arguments.command, Command::List(ListOptions { quiet: true, .. })));
    assert!(matches!(parse("--version").expect("parse").command, Command::Version));
}

#[test]
fn paths_need_not_be_unicode_and_no_path_is_none() {
    let words = [b"spec".to_vec(), b"-b".to_vec(), vec![0xff]];
    let arguments = Arguments::parse(words.map(OsString::from_vec), "runw").expect("parse");
    let Command::Spec(options) = arguments.command else { panic!() };
    assert_eq!(options.bundle.expect("a path").into_os_string().into_vec(), [0xff]);
    let words = ["create", "--pid-file", "", "box"];
    let arguments = Arguments::parse(words.map(OsString::from), "runw").expect("parse");
    assert!(matches!(arguments.command, Command::Create(CreateOptions { pid_file: None, .. })));
}

#[test]
fn every_command_has_help_by_three_ways() {
    for entry in COMMANDS {
        for words in [format!("{} -h", entry.name), format!("{} --help", entry.name), format!("help {}", entry.name)] {
            let Ok(Arguments { command: Command::Help(text), .. }) = parse(&words) else { panic!("{words}") };
            assert!(text.starts_with(&format!("NAME:\n   runw {} - ", entry.name)), "{text}");
        }
    }
    for words in ["", "-h", "--help", "help"] {
        let Ok(Arguments { command: Command::Help(text), .. }) = parse(words) else { panic!("{words}") };
        assert!(text.starts_with("NAME:\n   runw - Open Container Initiative runtime\n"), "{text}");
        assert!(!text.contains("--criu"), "{text}");
    }
    let Ok(Arguments { command: Command::Help(text), .. }) = parse("exec -h") else { panic!() };
    assert!(text.contains("runw exec [OPTIONS] ID [COMMAND]...\n"), "{text}");
    assert!(text.contains("   -e, --env NAME=VALUE"), "{text}");
    assert!(text.contains("[default: 0]\n"), "{text}");
}

#[test]
fn wrong_words_are_named_in_one_line() {
    let table = [
        ("frob", "runw: No help topic for 'frob': there is no such command; see runw --help"),
        ("--frob list", "runw: no such option: --frob; see runw --help"),
        ("--log-format xml list", "runw: --log-format \"xml\": allowed: text, json; see runw --help"),
        ("run", "runw run: ID is missing; see runw run --help"),
        ("run a b", "runw run: \"b\" is one argument too many; see runw run --help"),
        ("run --frob a", "runw run: no such option: --frob; see runw run --help"),
        ("run -x a", "runw run: no such option: -x; see runw run --help"),
        ("run a --bundle", "runw run: flag needs an argument: --bundle; see runw run --help"),
        ("run --detach=perhaps a", "runw run: --detach \"perhaps\": allowed: true, false; see runw run --help"),
        (
            "run --preserve-fds z a",
            "runw run: --preserve-fds \"z\": invalid digit found in string; see runw run --help",
        ),
        ("kill a 9 9", "runw kill: \"9\" is one argument too many; see runw kill --help"),
        ("features x", "runw features: \"x\" is one argument too many; see runw features --help"),
    ];
    for (words, line) in table {
        assert_eq!(wrong(words), line);
    }
}
