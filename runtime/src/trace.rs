//! Where the steps on the way to a running process are told as they are reached, for `--debug`.

use std::fmt;
use std::rc::Rc;

/// A listener to steps, or none; then nothing is told, and the child is not asked to.
#[derive(Clone, Default)]
pub struct Trace(Option<Rc<Listener>>);

type Listener = dyn Fn(&str);

impl Trace {
    pub fn new(listener: impl Fn(&str) + 'static) -> Self {
        Self(Some(Rc::new(listener)))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn say(&self, step: impl FnOnce() -> String) {
        if let Some(listener) = &self.0 {
            listener(&step());
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Trace(on)" } else { "Trace(off)" })
    }
}
