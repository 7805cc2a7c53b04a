//! What the quick carrier leaves behind: small records that a thread in the background turns into events, counts and
//! edges. Nothing is formatted, looked up or locked on the path of a request.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use countersign_identity::DecisionId;
use countersign_sdk::inbound::TraceId;
use countersign_sdk::tls::ConnectionId;
use http::{Method, StatusCode};

use crate::record::{Recorder, Trace};

/// One answered call, as far as it differs from others of its [`Standing`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) decision: DecisionId,
    pub(crate) trace: TraceId,
    pub(crate) connection: ConnectionId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) latency_us: u32,
    pub(crate) status: u16,
    /// Index into the templates of its batch.
    template: u32,
}

/// What many calls have in common: who calls, what, how it was decided, and every check that was passed.
pub(crate) struct Standing {
    template: Arc<Trace>,
    policies: Vec<String>,
    /// Batch and index there.
    place: Cell<(u64, u32)>,
    /// What the key points to lives at least as long as this.
    _keeps: Option<Arc<dyn Any + Send + Sync>>,
}

/// By what a [`Standing`] is found again: addresses of what lives as long as the configuration or the standing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StandingKey {
    pub(crate) route: usize,
    pub(crate) target: usize,
    pub(crate) method: u8,
    /// 0 is nobody.
    pub(crate) session: usize,
}

/// The records of one worker that were not handed over.
pub(crate) struct Journal {
    known: RefCell<HashMap<StandingKey, Rc<Standing>>>,
    batch: Cell<u64>,
    templates: RefCell<Vec<Arc<Trace>>>,
    calls: RefCell<Vec<Call>>,
    scribe: Scribe,
}

/// What is handed over.
struct Batch {
    templates: Vec<Arc<Trace>>,
    calls: Vec<Call>,
}

/// Where all workers hand over to.
#[derive(Clone)]
pub(crate) struct Scribe {
    batches: SyncSender<Batch>,
    recorder: Arc<Recorder>,
}

impl Scribe {
    /// Starts the thread. It ends when every worker has.
    pub(crate) fn start(recorder: Arc<Recorder>) -> Self {
        let (batches, inbox) = sync_channel(BATCHES_WAITING_MAX);
        let writer = Arc::clone(&recorder);
        let thread = std::thread::Builder::new().name("scribe".to_owned());
        if let Err(error) = thread.spawn(move || write_all(&inbox, &writer)) {
            // Nobody takes batches then, so that workers write them themselves.
            tracing::error!(%error, "the thread that records could not start");
        }
        Self { batches, recorder }
    }

    /// The journal of a worker.
    pub(crate) fn journal(&self) -> Journal {
        Journal {
            known: RefCell::default(),
            batch: Cell::new(1),
            templates: RefCell::default(),
            calls: RefCell::default(),
            scribe: self.clone(),
        }
    }
}

impl Call {
    /// Begins when its request is permitted.
    pub(crate) fn new(
        decision: DecisionId,
        trace: TraceId,
        connection: ConnectionId,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self { decision, trace, connection, peer, latency_us: 0, status: 0, template: 0 }
    }
}

impl Call {
    /// All that is known of this call.
    pub(crate) fn as_told(&self, standing: &Standing) -> Trace {
        self.of(&standing.template)
    }

    fn of(&self, template: &Trace) -> Trace {
        template.repeated(self.decision, self.trace, self.connection, self.peer)
    }
}

impl Journal {
    /// What `key` stands for under these rules; `make` says it when nobody asked before.
    pub(crate) fn standing(
        &self,
        key: StandingKey,
        policies: &[String],
        keeps: impl FnOnce() -> Option<Arc<dyn Any + Send + Sync>>,
        make: impl FnOnce() -> Option<Trace>,
    ) -> Option<Rc<Standing>> {
        if let Some(known) = self.known.borrow().get(&key)
            && known.policies == policies
        {
            return Some(Rc::clone(known));
        }
        let standing = Rc::new(Standing {
            template: Arc::new(make()?),
            policies: policies.to_vec(),
            place: Cell::new((0, 0)),
            _keeps: keeps(),
        });
        let mut known = self.known.borrow_mut();
        if known.len() >= STANDINGS_MAX {
            known.clear();
        }
        known.insert(key, Rc::clone(&standing));
        Some(standing)
    }

    /// Forgets what keys stand for: the addresses in them may soon be those of something else.
    pub(crate) fn forget(&self) {
        self.known.borrow_mut().clear();
    }

    /// Records an answered call.
    pub(crate) fn record(&self, standing: &Standing, mut call: Call) {
        let batch = self.batch.get();
        let (known_in, index) = standing.place.get();
        call.template = if known_in == batch { index } else { self.place(standing) };
        let mut calls = self.calls.borrow_mut();
        calls.push(call);
        if calls.len() >= CALLS_MAX {
            drop(calls);
            self.hand_over();
        }
    }

    fn place(&self, standing: &Standing) -> u32 {
        let mut templates = self.templates.borrow_mut();
        let index = u32::try_from(templates.len()).unwrap_or(u32::MAX);
        templates.push(Arc::clone(&standing.template));
        standing.place.set((self.batch.get(), index));
        index
    }

    /// Hands over what there is; four times a second, and whenever there is much. Where the other side does not keep up,
    /// this worker does its work: nothing is lost, and it takes no more than it can record.
    pub(crate) fn hand_over(&self) {
        let calls = self.calls.take();
        if calls.is_empty() {
            return;
        }
        self.batch.set(self.batch.get() + 1);
        let batch = Batch { templates: self.templates.take(), calls };
        if let Err(refused) = self.scribe.batches.try_send(batch) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(batch) | Disconnected(batch)) = refused;
            write(&batch, &self.scribe.recorder);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn write_all(inbox: &Receiver<Batch>, recorder: &Recorder) {
    while let Ok(batch) = inbox.recv() {
        write(&batch, recorder);
    }
}

fn write(batch: &Batch, recorder: &Recorder) {
    recorder.all_allowed(batch.calls.iter().filter_map(|call| {
        let template = batch.templates.get(usize::try_from(call.template).ok()?)?;
        let status = StatusCode::from_u16(call.status).ok()?;
        Some((call.of(template), status, Duration::from_micros(u64::from(call.latency_us))))
    }));
}

/// A number for each of the seven methods, so that a key holds no text.
pub(crate) fn number_of(method: &Method) -> u8 {
    match *method {
        Method::GET => 1,
        Method::HEAD => 2,
        Method::POST => 3,
        Method::PUT => 4,
        Method::PATCH => 5,
        Method::DELETE => 6,
        _ => 7,
    }
}

const STANDINGS_MAX: usize = 4096;
const CALLS_MAX: usize = 8192;
const BATCHES_WAITING_MAX: usize = 4;
