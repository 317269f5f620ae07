//! What a host tells the cell by its standard input, where its environment can be read from outside: one line, an object of
//! texts with the names that the environment would have.
//! Never: wait for ever for a host that died, or read more than settings can be.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// A configuration with a workspace full of skills, escaped twice.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// The host writes them as soon as the cell is started.
const WAIT_MAX: Duration = Duration::from_secs(20);
const PIECE_BYTES: usize = 64 * 1024;

/// Why the settings are not there.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the host gave no settings on the standard input")]
    Missing,
    #[error("the host's settings did not come within {} s", WAIT_MAX.as_secs())]
    Late,
    #[error("the settings on the standard input can't be read")]
    Unreadable,
}

/// Reads the line.
pub fn read(input: impl AsFd) -> Result<BTreeMap<String, String>, SettingsError> {
    let line = line(input, Instant::now() + WAIT_MAX)?;
    serde_json::from_slice(&line).map_err(|_| SettingsError::Unreadable)
}

fn line(input: impl AsFd, deadline: Instant) -> Result<Vec<u8>, SettingsError> {
    let (mut line, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| SettingsError::Late)?;
        match poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => continue,
            Ok(0) => return Err(SettingsError::Late),
            Ok(_) => {}
            Err(_) => return Err(SettingsError::Unreadable),
        }
        match rustix::io::read(&input, &mut piece[..]) {
            Err(Errno::INTR) => {}
            Err(_) => return Err(SettingsError::Unreadable),
            Ok(0) => return Err(SettingsError::Missing),
            Ok(count) => {
                line.extend_from_slice(&piece[..count]);
                if line.last() == Some(&b'\n') {
                    return Ok(line);
                }
                if line.len() > BYTES_MAX {
                    return Err(SettingsError::Unreadable);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_read_and_half_a_line_or_none_is_said() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"{\"MOLT_BOT_ID\":").unwrap();
        writer.write_all(b"\"molt-a\"}\n").unwrap();
        assert_eq!(read(&reader).unwrap()["MOLT_BOT_ID"], "molt-a");

        assert!(matches!(line(&reader, Instant::now()), Err(SettingsError::Late)));
        writer.write_all(b"{\"half\":").unwrap();
        drop(writer);
        assert!(matches!(read(&reader), Err(SettingsError::Missing)));
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"nonsense\n").unwrap();
        assert!(matches!(read(&reader), Err(SettingsError::Unreadable)));
    }
}
