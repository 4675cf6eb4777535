//! What a disk promises: it outlives the guest, and a cut of the power loses what was not flushed.

use crate::support::{OnLine, kernel, shell, turn};
use std::time::Duration;
use vm_tests::disk::Loss;
use vm_tests::random::Random;
use vm_tests::{Disk, Ending, Options, Vm};

/// What the guest does depends on what an earlier boot left.
const SCRIPT: &str = "
    cd /var/lib/wharf
    if [ ! -e flushed ]; then
        echo kept > flushed
        echo gone > /root/file
        sync
        reboot -f
    fi
    ls /root
    cat flushed
    [ ! -e written ] || exec cat written
    # From here on the kernel writes, in its order, and never flushes.
    mount -o remount,barrier=0 /var/lib/wharf
    echo 'written without a flush' > written
    sync
    echo now
    while :; do date > more; sync; done";

#[test]
fn a_disk_outlives_a_reboot_and_loses_at_a_power_cut_what_was_not_flushed() {
    let Some(kernel) = kernel("a_disk_outlives_a_reboot_and_loses_at_a_power_cut_what_was_not_flushed") else { return };
    let _turn = turn();
    let disk = Disk::ext4(64).expect("make a disk");
    let mut image = shell(kernel, SCRIPT);
    image.disk("/var/lib/wharf").expect("mount point");
    let options = Options { timeout: Duration::from_secs(90), ..Options::default() };
    let vm = Vm::new(&image, &options).with_disk(&disk);
    let boot = |loss| {
        let cut = |line: &str| {
            if line == "now" {
                disk.cut_after(1, loss, Random::new(0));
            }
        };
        let mut output = OnLine::new(cut);
        let ended = vm.run(&mut output, &mut Vec::new()).expect("run the VM");
        (ended.ending, output.text(), ended.console_tail())
    };
    let (ending, output, console) = boot(Loss::Nothing);
    assert_eq!((ending, output.as_str()), (Ending::Reboot, ""), "{console}");
    for loss in [Loss::Everything, Loss::Nothing] {
        let (ending, output, console) = boot(loss);
        assert_eq!((ending, output.as_str()), (Ending::PowerCut, "kept\nnow\n"), "{console}");
        disk.check_file_system().expect("a sound file system");
    }
    let (ending, output, console) = boot(Loss::Nothing);
    assert_eq!((ending, output.as_str()), (Ending::Exit(0), "kept\nwritten without a flush\n"), "{console}");
}
