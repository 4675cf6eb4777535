//! Terminals, pipes and exit codes.

use super::*;

#[test]
fn a_terminal_survives() {
    require_criu!("a_terminal_survives");
    let bundle = Bundle::script("stty -echo; while read line; do echo got $line; done");
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/stty")).expect("link");
    let bundle = bundle.set("/process/terminal", json!(true));
    let path = bundle.scratch().join("console");
    let listener = wharf_sys::socket::listen(wharf_sys::socket::Kind::Stream, &path, 1).expect("listen");
    let path = path.to_str().expect("path");
    let receive = || -> OwnedFd {
        let connection = wharf_sys::socket::accept(listener.as_fd()).expect("accept");
        let (_, descriptors) = wharf_sys::socket::receive(connection.as_fd(), &mut [0u8; 64]).expect("receive");
        descriptors.into_iter().next().expect("a terminal")
    };
    let talk = |terminal: OwnedFd, word: &str| {
        let mut terminal = fs::File::from(terminal);
        writeln!(terminal, "{word}").expect("write");
        let (mut text, mut buffer) = (String::new(), [0u8; 256]);
        while !text.contains(&format!("got {word}")) {
            let length = terminal.read(&mut buffer).expect("read the terminal");
            text += &String::from_utf8_lossy(&buffer[..length]);
        }
        terminal
    };
    let run = bundle.runw(&["run", "-d", "--console-socket", path, &bundle.id]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let first = talk(receive(), "one");
    let refused = checkpoint(&bundle, &[]);
    ok(&bundle, &refused);
    drop(first);
    assert_one_line(&restore(&bundle, &[]), &["console socket"]);
    ok(&bundle, &restore(&bundle, &["--console-socket", path]));
    talk(receive(), "two");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn pipes_of_the_caller_are_replaced_by_those_of_the_restore() {
    require_criu!("pipes_of_the_caller_are_replaced_by_those_of_the_restore");
    let bundle = Bundle::script("while read line; do echo got $line; done");
    let speak = |child: &mut Child, word: &str| {
        writeln!(child.stdin.as_mut().expect("stdin"), "{word}").expect("write");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("read");
        assert_eq!(line, format!("got {word}\n"));
    };
    let with_pipes = |arguments: &[&str]| {
        let mut command = bundle.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("spawn");
        // Dropped by wait(), the input would be at its end.
        let stdin = child.stdin.take();
        assert!(child.wait().expect("wait").success());
        child.stdin = stdin;
        child
    };
    let mut first = with_pipes(&["run", "-d", &bundle.id]);
    speak(&mut first, "one");
    ok(&bundle, &checkpoint(&bundle, &[]));
    let paths = ["--image-path", "images", "--work-path", "work"];
    let mut second = with_pipes(&[&["restore", "-d"], &paths[..], &[&bundle.id]].concat());
    speak(&mut second, "two");
    drop(second.stdin.take());
    let mut rest = String::new();
    second.stdout.take().expect("stdout").read_to_string(&mut rest).expect("the end of the output");
    assert_eq!(rest, "");
}

#[test]
fn the_foreground_ends_with_the_restored_containers_code() {
    require_criu!("the_foreground_ends_with_the_restored_containers_code");
    let bundle = Bundle::script("while ! test -e /data/end; do sleep 0.1; done; exit 7");
    let data = bundle.scratch().join("data");
    fs::create_dir(&data).expect("mkdir");
    let bundle = bundle.set("/mounts/-", json!({"destination": "/data", "source": data, "options": ["bind"]}));
    start(&bundle);
    ok(&bundle, &checkpoint(&bundle, &[]));
    fs::write(data.join("end"), "").expect("write");
    let restored = bundle.runw(&["restore", "--image-path", "images", "--work-path", "work", &bundle.id]);
    assert_eq!(restored.code, Some(7), "{restored:?}");
    bundle.assert_nothing_left();
}
