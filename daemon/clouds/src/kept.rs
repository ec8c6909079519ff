//! What ends and is asked for anew: a token, keys.
//!
//! It is replaced five minutes before its end, by one caller at a time; while it is still good, a
//! source that does not answer does no harm.

use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

/// How long before its end a value is replaced.
pub(crate) const EARLY: Duration = Duration::from_secs(300);

/// A value and how long it holds; for ever, where nothing is said.
#[derive(Clone)]
pub(crate) struct Held<T> {
    pub(crate) value: T,
    pub(crate) until: Option<SystemTime>,
}

/// The last value, if there was one.
pub(crate) struct Kept<T>(Mutex<Option<Held<T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

/// A secret is not shown.
impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl<T> Held<T> {
    fn lasts(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl<T: Clone> Kept<T> {
    /// A value that holds at `now`: the last one, or what `fetch` gives.
    ///
    /// # Errors
    /// As `fetch` does, when nothing else holds any more.
    pub(crate) async fn value<E>(
        &self,
        now: SystemTime,
        fetch: impl Future<Output = Result<Held<T>, E>>,
    ) -> Result<T, E> {
        let mut held = self.0.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.lasts(now + EARLY)) {
            return Ok(held.value.clone());
        }
        match fetch.await {
            Ok(fresh) => Ok(held.insert(fresh).value.clone()),
            Err(error) => match held.as_ref().filter(|held| held.lasts(now)) {
                Some(held) => Ok(held.value.clone()),
                None => Err(error),
            },
        }
    }

    /// Somebody says that `refused` has ended: it is not used again, unless it was replaced already.
    pub(crate) async fn forget<Q: ?Sized>(&self, refused: &Q)
    where
        T: PartialEq<Q>,
    {
        self.0.lock().await.take_if(|held| held.value == *refused);
    }
}
