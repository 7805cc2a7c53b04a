//! Ports of a new deployment: the documented default where it is free, else one that the kernel chooses.

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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, preferred))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
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
    }
}
