//! Lines out of a pipe without waiting. In: a readable descriptor; out: whole lines of text, as they become complete.
//!
//! Every wait of the drill is one `poll` over several descriptors ([`super::stage::Stage`]), so no read may block.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The read end of a pipe, cut into lines.
#[derive(Debug)]
pub struct Lines {
    pipe: File,
    pending: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// Takes the read end over and makes it non-blocking.
    pub fn new(pipe: impl Into<OwnedFd>) -> io::Result<Self> {
        let pipe = File::from(pipe.into());
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { pipe, pending: Vec::new(), ended: false })
    }

    /// The next complete line without its line feed; reads what the pipe holds right now. `None`: not yet, or ended.
    pub fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// True once the writers are gone. Complete lines may still be waiting in [`Lines::next`].
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// One read; false when there is nothing (more) to read now.
    fn read_more(&mut self) -> io::Result<bool> {
        let mut chunk = [0_u8; 16 * 1024];
        match self.pipe.read(&mut chunk) {
            Ok(0) => {
                self.ended = true;
                Ok(false)
            }
            Ok(count) => {
                self.pending.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::Lines;

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (reader, writer) = nix::unistd::pipe().expect("pipe");
        let mut writer = std::fs::File::from(writer);
        let mut lines = Lines::new(reader).expect("lines");
        writer.write_all(b"one\ntw").expect("write");
        assert_eq!(lines.next().expect("read").as_deref(), Some("one"));
        assert_eq!(lines.next().expect("read"), None);
        assert!(!lines.ended());
        writer.write_all(b"o\nthree\n").expect("write");
        drop(writer);
        assert_eq!(lines.next().expect("read").as_deref(), Some("two"));
        assert_eq!(lines.next().expect("read").as_deref(), Some("three"));
        assert_eq!(lines.next().expect("read"), None);
        assert!(lines.ended());
    }
}
