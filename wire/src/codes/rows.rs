//! How a row of the table becomes a variant of [`super::Code`] and its [`super::Entry`].

macro_rules! codes {
    ($($number:literal $name:ident ($stage:ident, $public:ident, $retry:ident, $exit:ident)
        $title:literal $why:literal $fix:literal;)+) => {
        /// An error of Countersign, CSnnnn; see [`Code::entry`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name),+ }

        impl Code {
            pub(super) fn row(self) -> &'static Entry {
                match self { $(Code::$name => {
                    const ROW: Entry = Entry {
                        code: Code::$name,
                        number: $number,
                        stage: Stage::$stage,
                        public: Public::$public,
                        retryable: codes!(@$retry),
                        exit: Exit::$exit,
                        title: $title,
                        why: $why,
                        fix: $fix,
                    };
                    &ROW
                })+ }
            }
        }

        /// Every code, in the order of their numbers.
        pub static TABLE: &[Code] = &[$(Code::$name),+];
    };
    (@later) => { true };
    (@never) => { false };
}
