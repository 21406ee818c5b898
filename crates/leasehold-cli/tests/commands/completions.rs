//! `leasehold completions`, and colours.

use std::process::{Command, Stdio};

use crate::program::{LEASEHOLD, plain, run};

#[test]
fn the_script_for_bash_is_one_that_bash_takes() {
    let script = Command::new(LEASEHOLD).args(["completions", "bash"]).output().unwrap();
    assert!(script.status.success());
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), &script.stdout).unwrap();
    let checked = bash.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let script = String::from_utf8(script.stdout).unwrap();
    for command in ["exec", "watch", "dev", "import", "completions"] {
        assert!(script.contains(&format!("leasehold,{command})")), "{command}");
    }
}

#[test]
fn every_shell_has_one_and_no_other_word_does() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let (code, script) = run(&mut plain(&["completions", shell]));
        assert_eq!(code, Some(0), "{script}");
        assert!(script.contains("kill-after"), "{shell}");
    }
    let (code, said) = run(&mut plain(&["completions", "csh"]));
    assert_eq!(code, Some(2), "{said}");
}
