//! People.

/// Somebody who was here before.
pub(super) struct Person {
    pub(super) handle: &'static str,
    pub(super) name: &'static str,
    pub(super) town: &'static str,
    pub(super) about: &'static str,
    /// In tenths of a star.
    pub(super) rating: Option<i64>,
    pub(super) deals: i64,
    /// Since how many days they are here.
    pub(super) days: usize,
}

#[rustfmt::skip]
pub(super) const PEOPLE: [Person; 12] = [
    Person { handle: "alice", name: "Alice Hofer", town: "Gallneukirchen", about: "Looking for a bicycle before spring.", rating: Some(49), deals: 7, days: 410 },
    Person { handle: "bob", name: "Bob Leitner", town: "Gallneukirchen", about: "I repair what others throw away. Come and try things out in the yard.", rating: Some(47), deals: 31, days: 900 },
    Person { handle: "mod", name: "Maria Odermatt", town: "Linz", about: "I keep the market tidy.", rating: None, deals: 0, days: 1200 },
    Person { handle: "eve", name: "Eve Brandstetter", town: "Leonding", about: "", rating: None, deals: 0, days: 3 },
    Person { handle: "katharina", name: "Katharina Pühringer", town: "Engerwitzdorf", about: "Children grow, things move on.", rating: Some(50), deals: 18, days: 640 },
    Person { handle: "jakob", name: "Jakob Wiesinger", town: "Linz", about: "Student, moving every year.", rating: Some(42), deals: 5, days: 120 },
    Person { handle: "theresia", name: "Theresia Aigner", town: "Pregarten", about: "Clearing out my grandfather's workshop, piece by piece.", rating: Some(48), deals: 22, days: 300 },
    Person { handle: "lukas", name: "Lukas Mayrhofer", town: "Altenberg bei Linz", about: "Mountains, and what you need for them.", rating: Some(45), deals: 12, days: 510 },
    Person { handle: "samira", name: "Samira Haddad", town: "Linz", about: "I lend out what stands around most of the year.", rating: Some(50), deals: 44, days: 760 },
    Person { handle: "franz", name: "Franz Reisinger", town: "Ottensheim", about: "Boats, ropes, and patience.", rating: Some(39), deals: 9, days: 1500 },
    Person { handle: "nora", name: "Nora Eder", town: "Steyregg", about: "I swap more than I sell.", rating: Some(46), deals: 16, days: 270 },
    Person { handle: "petr", name: "Petr Novák", town: "Freistadt", about: "Old cameras, mostly working.", rating: Some(44), deals: 28, days: 830 },
];

/// From, to, text.
pub(super) const MESSAGES: [(&str, &str, &str); 3] = [
    ("alice", "bob", "Is the touring bicycle still there? I could come by on Saturday."),
    ("bob", "alice", "It is. The front brake is new, bring a helmet and try it."),
    ("alice", "bob", "Ten o'clock, then."),
];
