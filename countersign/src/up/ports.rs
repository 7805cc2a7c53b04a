//! Ports of a new deployment: the documented default where it is free, else a free one below the range from which the
//! kernel takes ports for outgoing connections, so that it is still free after a restart.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::error::CliError;

/// Hands out loopback addresses, none twice. It holds each until it is dropped, so that no two roles are
/// given the same port.
#[derive(Debug, Default)]
pub struct Ports {
    held: Vec<TcpListener>,
    moved: Vec<(u16, u16)>,
}

impl Ports {
    /// `127.0.0.1:preferred`, or another port where that one is busy.
    pub fn near(&mut self, preferred: u16) -> Result<SocketAddr, CliError> {
        let others = (0..TRIES).map(|_| rand::random_range(OTHERS));
        let mut tried =
            std::iter::once(preferred).chain(others).map(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, p)));
        let listener = tried
            .find(Result::is_ok)
            .unwrap_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .map_err(|e| {
                CliError::usage("no free port on 127.0.0.1", e, "end a server, or raise the file limit")
            })?;
        let address = listener
            .local_addr()
            .map_err(|e| CliError::usage("the address of a new listener cannot be read", e, "try again"))?;
        if address.port() != preferred {
            self.moved.push((preferred, address.port()));
        }
        self.held.push(listener);
        Ok(address)
    }

    /// Default ports that were busy, with what was taken instead: told to the person once.
    pub fn moved(&self) -> &[(u16, u16)] {
        &self.moved
    }
}

/// Where the others are looked for: below Linux's default `ip_local_port_range`.
const OTHERS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_default_port_is_replaced_by_a_free_one_and_said() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = busy.local_addr().unwrap().port();
        let mut ports = Ports::default();
        let given = ports.near(taken).unwrap();
        assert_ne!(given.port(), taken);
        assert_eq!(ports.moved(), &[(taken, given.port())]);
    }

    #[test]
    fn no_port_is_given_twice() {
        let mut ports = Ports::default();
        let a = ports.near(0).unwrap();
        let b = ports.near(a.port()).unwrap();
        assert_ne!(a.port(), b.port());
        assert!(OTHERS.contains(&b.port()));
    }
}
