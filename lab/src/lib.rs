//! The laboratory: what Countersign is measured against, and what nobody should run.
//!
//! [`experiment`] is the chapter that the thesis announces and does not have: every way to prove who is calling, run as
//! a chain of real processes, measured and compared. [`report`] writes it.
//!
//! [`thesis`] is the mechanism of the thesis that this project grew out of, to the letter: its listings, its
//! token and its Algorithm 5.1, weaknesses included. It exists so that two claims can be tested and not merely
//! made: that the literal form fails in the ways listed there, and that the form which runs here does not.
//! Nothing that a service links can name it.
//!
//! [`article`] is another mechanism that people take from the shelf, as its listings have it.
//!
//! [`attack`] attacks: a running deployment, these two mechanisms, and [`weak`], a listener that makes the mistakes on
//! purpose, by which each attack shows that it could succeed.
//!
//! [`advise`] says which way fits an edge, and points with every reason to one of the attacks or of the figures.
//! [`sequence`] draws who tells whom what.

pub mod advise;
pub mod article;
pub mod attack;
pub mod experiment;
pub mod relay;
pub mod report;
pub mod sequence;
pub mod thesis;
pub mod weak;
