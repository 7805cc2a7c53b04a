//! A name server with the records that the test gives it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// What the server knows of a name.
#[derive(Debug, Clone)]
pub enum Record {
    A(Ipv4Addr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, String),
}

#[derive(Debug, Default)]
struct Zone {
    records: HashMap<String, Vec<Record>>,
    /// Every question is answered by SERVFAIL.
    broken: bool,
    questions: usize,
}

/// A running name server; it ends with the value.
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: CancellationToken,
}

impl Dns {
    pub async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (zone, stop) = (Arc::new(Mutex::new(Zone::default())), CancellationToken::new());
        let served = Arc::clone(&zone);
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut packet = [0; 1500];
            loop {
                let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
                let answer = served.lock().unwrap().answer(&packet[..length]);
                socket.send_to(&answer, peer).await.unwrap();
            }
        }));
        Dns { address, zone, stop }
    }

    pub fn set(&self, name: &str, records: &[Record]) {
        self.zone.lock().unwrap().records.insert(name.to_owned(), records.to_vec());
    }

    pub fn break_down(&self, broken: bool) {
        self.zone.lock().unwrap().broken = broken;
    }

    pub fn questions(&self) -> usize {
        self.zone.lock().unwrap().questions
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Zone {
    /// RFC 1035 section 4: the question back, and what is known.
    fn answer(&mut self, query: &[u8]) -> Vec<u8> {
        self.questions += 1;
        let (mut name, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let length = usize::from(query[at]);
            name.push(String::from_utf8_lossy(&query[at + 1..at + 1 + length]).to_lowercase());
            at += length + 1;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        let known = self.records.get(&name.join("."));
        let fitting: Vec<&Record> = known
            .into_iter()
            .flatten()
            .filter(|record| matches!((record, kind), (Record::A(_), 1) | (Record::Srv(..), 33)))
            .collect();
        let code = match (self.broken, known) {
            (true, _) => 2,
            (false, None) => 3,
            (false, Some(_)) => 0,
        };
        let count = if code == 0 { u8::try_from(fitting.len()).unwrap() } else { 0 };
        let mut answer = vec![query[0], query[1], 0x85, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0];
        answer.extend_from_slice(question);
        for record in fitting.into_iter().take(usize::from(count)) {
            let data = record.data();
            // The name of the question, class IN, no TTL at all.
            answer.extend_from_slice(&[0xc0, 12, 0, u8::try_from(kind).unwrap(), 0, 1, 0, 0, 0, 0]);
            answer.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(&data);
        }
        answer
    }
}

impl Record {
    fn data(&self) -> Vec<u8> {
        match self {
            Record::A(address) => address.octets().to_vec(),
            Record::Srv(priority, weight, port, target) => {
                let mut data: Vec<u8> =
                    [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                for label in target.split('.') {
                    data.push(u8::try_from(label.len()).unwrap());
                    data.extend_from_slice(label.as_bytes());
                }
                data.push(0);
                data
            }
        }
    }
}
