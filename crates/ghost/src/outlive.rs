//! A future that is run to its end when nobody waits for it any more.
//! Never: longer than a call may outlive its caller.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::task::TaskTracker;

use crate::relay::DRAIN_TIME_MAX;

/// Waited for by a connection; when the caller hangs up, a task takes it over for a bounded time.
pub(crate) struct Outliving<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tasks: TaskTracker,
}

impl<T: Send + 'static> Outliving<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static, tasks: TaskTracker) -> Self {
        Self { future: Some(Box::pin(future)), tasks }
    }
}

impl<T: Send + 'static> Future for Outliving<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let future = self.future.as_mut().expect("a future isn't polled again after its end");
        let done = future.as_mut().poll(context);
        if done.is_ready() {
            self.future = None;
        }
        done
    }
}

impl<T: Send + 'static> Drop for Outliving<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        if tokio::runtime::Handle::try_current().is_ok() {
            self.tasks.spawn(async move { drop(tokio::time::timeout(DRAIN_TIME_MAX, future).await) });
        }
    }
}
