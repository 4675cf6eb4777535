//! The disk's side of NBD, the protocol by which QEMU reaches it: fixed newstyle negotiation, one export, simple replies
//! (doc/proto.md of the NetworkBlockDevice project).

use crate::disk::Disk;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketType, sockopt};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, and no padding after the export's size.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Flags are given; the disk has a cache that can be flushed.
const TRANSMISSION_FLAGS: u16 = 0b101;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACKNOWLEDGED: u32 = 1;
const REPLY_INFORMATION: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) + 1;
const INFORMATION_EXPORT: u16 = 0;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// No client asks for more at once: 32 MiB is what it may rely on.
const LONGEST: u32 = 32 << 20;
const INVALID: u32 = 22;

/// A socket in the abstract namespace, which leaves no file.
pub(crate) struct Door {
    pub(crate) name: String,
    listener: UnixListener,
}

impl Door {
    pub(crate) fn open() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("wharf-vm-disk-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let socket: OwnedFd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(Self { name, listener: socket.into() })
    }

    /// Ends [`Door::serve`] where it still waits for its client.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }

    /// Serves the client with this process id, until it leaves or the disk has no power any more.
    pub(crate) fn serve(&self, disk: &Disk, client: u32) -> io::Result<()> {
        loop {
            let Ok((stream, _)) = self.listener.accept() else { return Ok(()) };
            // Anyone on this machine can connect to an abstract name.
            let peer = sockopt::socket_peercred(&stream)?;
            if peer.pid.as_raw_pid().cast_unsigned() == client {
                return match serve(&stream, disk) {
                    // QEMU was killed.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                        ) =>
                    {
                        Ok(())
                    }
                    other => other,
                };
            }
        }
    }
}

fn serve(mut stream: &UnixStream, disk: &Disk) -> io::Result<()> {
    if !negotiate(&mut stream, disk.size())? {
        return Ok(());
    }
    loop {
        if u32::from_be_bytes(read_array(&mut stream)?) != REQUEST_MAGIC {
            return Err(io::Error::other("a request of the guest's disk has no magic"));
        }
        let _flags: [u8; 2] = read_array(&mut stream)?;
        let operation = u16::from_be_bytes(read_array(&mut stream)?);
        let handle: [u8; 8] = read_array(&mut stream)?;
        let offset = u64::from_be_bytes(read_array(&mut stream)?);
        let length = u32::from_be_bytes(read_array(&mut stream)?);
        let inside = length <= LONGEST && offset.checked_add(length.into()).is_some_and(|end| end <= disk.size());
        let mut bytes = Vec::new();
        match operation {
            READ if inside => {
                bytes.resize(length as usize, 0);
                disk.read(offset, &mut bytes)?;
            }
            WRITE if inside => {
                let mut content = vec![0; length as usize];
                stream.read_exact(&mut content)?;
                if !disk.write(offset, content)? {
                    // Without power there is no answer: what the guest asks is read and dropped until it is gone.
                    return io::copy(&mut stream, &mut io::sink()).map(drop);
                }
            }
            FLUSH => disk.flush()?,
            DISCONNECT => return Ok(()),
            // What a write carries would be taken for requests.
            WRITE => return Err(io::Error::other("the guest's disk was written beyond its end")),
            _ => {
                reply(&mut stream, INVALID, handle, &[])?;
                continue;
            }
        }
        reply(&mut stream, 0, handle, &bytes)?;
    }
}

fn reply(stream: &mut &UnixStream, error: u32, handle: [u8; 8], bytes: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(16 + bytes.len());
    message.extend(REPLY_MAGIC.to_be_bytes());
    message.extend(error.to_be_bytes());
    message.extend(handle);
    message.extend(bytes);
    stream.write_all(&message)
}

/// True once the client wants to transmit; false if it left.
fn negotiate(stream: &mut (impl Read + Write), size: u64) -> io::Result<bool> {
    stream
        .write_all(&[&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &HANDSHAKE_FLAGS.to_be_bytes()].concat())?;
    let _flags: [u8; 4] = read_array(stream)?;
    loop {
        if u64::from_be_bytes(read_array(stream)?) != OPTION_MAGIC {
            return Err(io::Error::other("an option of the guest's disk has no magic"));
        }
        let option = u32::from_be_bytes(read_array(stream)?);
        let length = u32::from_be_bytes(read_array(stream)?);
        io::copy(&mut stream.take(length.into()), &mut io::sink())?;
        match option {
            OPTION_GO => {
                let information =
                    [&INFORMATION_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &TRANSMISSION_FLAGS.to_be_bytes()];
                answer(stream, option, REPLY_INFORMATION, &information.concat())?;
                answer(stream, option, REPLY_ACKNOWLEDGED, &[])?;
                return Ok(true);
            }
            OPTION_ABORT => return answer(stream, option, REPLY_ACKNOWLEDGED, &[]).map(|()| false),
            _ => answer(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn answer(stream: &mut impl Write, option: u32, kind: u32, content: &[u8]) -> io::Result<()> {
    let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend((content.len() as u32).to_be_bytes());
    message.extend(content);
    stream.write_all(&message)
}

fn read_array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
