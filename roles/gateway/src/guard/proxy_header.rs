//! PROXY protocol version 2 (HAProxy's specification, section 2.2): a balancer that passes bytes on says whose they are,
//! before the first of them. Only listed balancers are asked, and these must say it; from all others the same bytes are
//! a request that nobody can read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a connection of a listed balancer is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyHeaderError {
    #[error("the balancer sent no PROXY header of version 2")]
    Absent,
    #[error("the PROXY header has a command, family or length that is not known")]
    Malformed,
    #[error("the PROXY header has {bytes} bytes, more than {ADDRESSES_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the PROXY header broke off: {0}")]
    BrokenOff(#[from] std::io::Error),
}

/// Reads exactly the header, and not a byte behind it. Nothing, if the balancer speaks for itself, as its health checks
/// do.
pub(crate) async fn read_proxy_header(
    io: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut fixed = [0; FIXED_BYTES];
    io.read_exact(&mut fixed).await?;
    let [signature @ .., command, family, high, low] = fixed;
    if signature != SIGNATURE {
        return Err(ProxyHeaderError::Absent);
    }
    let bytes = usize::from(u16::from_be_bytes([high, low]));
    if bytes > ADDRESSES_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong { bytes });
    }
    let mut rest = vec![0; bytes];
    io.read_exact(&mut rest).await?;
    match (command, family) {
        (LOCAL, _) => Ok(None),
        (PROXY, TCP_OVER_IPV4) => source::<4>(&rest, |ip| Ipv4Addr::from(ip).into()).map(Some),
        (PROXY, TCP_OVER_IPV6) => source::<16>(&rest, |ip| Ipv6Addr::from(ip).into()).map(Some),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

/// Source address, destination address, source port, destination port; what follows are extensions.
fn source<const N: usize>(
    rest: &[u8],
    ip: impl FnOnce([u8; N]) -> IpAddr,
) -> Result<SocketAddr, ProxyHeaderError> {
    let malformed = || ProxyHeaderError::Malformed;
    let (source, rest) = rest.split_first_chunk::<N>().ok_or_else(malformed)?;
    let (_destination, rest) = rest.split_first_chunk::<N>().ok_or_else(malformed)?;
    let (port, rest) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
    rest.first_chunk::<2>().ok_or_else(malformed)?;
    Ok(SocketAddr::new(ip(*source), u16::from_be_bytes(*port)))
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;
/// Addresses and extensions: a balancer that adds certificates' names needs a few hundred.
const ADDRESSES_BYTES_MAX: usize = 2048;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    async fn read(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeaderError>, usize) {
        let read = read_proxy_header(&mut bytes).await;
        (read, bytes.len())
    }

    const V4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0x01, 0xbb];

    #[tokio::test]
    async fn accepts_both_families_and_reads_no_byte_behind_the_header() {
        let (read_v4, left) = read(&[header(PROXY, TCP_OVER_IPV4, V4), b"GET".to_vec()].concat()).await;
        assert_eq!((read_v4.unwrap(), left), (Some("192.0.2.1:8080".parse().unwrap()), 3));
        let v6: Vec<u8> =
            [&[0x20, 0x01, 0x0d, 0xb8], &[0; 11][..], &[7], &[0; 16], &[0, 80, 1, 187], b"extra"].concat();
        let (read_v6, left) = read(&header(PROXY, TCP_OVER_IPV6, &v6)).await;
        assert_eq!((read_v6.unwrap(), left), (Some("[2001:db8::7]:80".parse().unwrap()), 0));
        assert_eq!(read(&header(LOCAL, 0, &[])).await.0.unwrap(), None);
    }

    #[tokio::test]
    async fn rejects_everything_else() {
        assert!(matches!(read(b"GET / HTTP/1.1\r\n\r\n").await.0, Err(ProxyHeaderError::Absent)));
        assert!(matches!(read(b"PROXY TCP4 192.0.2.1 ").await.0, Err(ProxyHeaderError::Absent)));
        for (command, family, rest) in [
            (PROXY, TCP_OVER_IPV4, V4.split_last().unwrap().1),
            (PROXY, TCP_OVER_IPV6, V4),
            (PROXY, 0x12, V4),
            (PROXY, 0x31, V4),
            (0x22, TCP_OVER_IPV4, V4),
            (0x11, TCP_OVER_IPV4, V4),
        ] {
            let refused = read(&header(command, family, rest)).await.0;
            assert!(matches!(refused, Err(ProxyHeaderError::Malformed)), "{command:x} {family:x}");
        }
        let long = vec![0; ADDRESSES_BYTES_MAX + 1];
        assert!(matches!(
            read(&header(LOCAL, 0, &long)).await.0,
            Err(ProxyHeaderError::TooLong { bytes: 2049 })
        ));
        assert!(read(&header(LOCAL, 0, &long[1..])).await.0.is_ok());
        let broken = header(PROXY, TCP_OVER_IPV4, V4);
        assert!(matches!(read(&broken[..20]).await.0, Err(ProxyHeaderError::BrokenOff(_))));
    }
}
