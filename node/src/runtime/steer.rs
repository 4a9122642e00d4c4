//! Suspending and resuming a task: how a running one is asked, and what it may answer.

use tokio::sync::{mpsc, oneshot};

/// Orders that wait for a task's driver. Further ones wait at the sender: each is answered before the next.
pub(super) const ORDERS: usize = 1;

/// What is wanted of a task that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// That it stands still and gives back all but its files.
    Suspend,
    /// That it goes on where it was.
    Resume,
}

/// A wish on its way, with the place for its answer.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) wish: Wish,
    pub(super) answer: oneshot::Sender<Result<(), SteerError>>,
}

impl Order {
    pub(super) fn answer(self, answer: Result<(), SteerError>) {
        // Whoever asked may have gone.
        drop(self.answer.send(answer));
    }
}

/// Where a task takes orders.
#[derive(Clone, Debug)]
pub(super) struct Reins(mpsc::Sender<Order>);

impl Reins {
    /// Those of a new task, and where its driver gets the orders.
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (send, orders) = mpsc::channel(ORDERS);
        (Self(send), orders)
    }

    /// Has the wish fulfilled, or hears why not.
    pub(super) async fn order(&self, wish: Wish) -> Result<(), SteerError> {
        let (answer, heard) = oneshot::channel();
        self.0.send(Order { wish, answer }).await.map_err(|_| SteerError::Ended)?;
        heard.await.unwrap_or(Err(SteerError::Ended))
    }
}

/// Why a task is not suspended, or not resumed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// Its runtime can do neither, or it has not begun.
    #[error("the task is still starting: try again when it runs")]
    NotYet,
    /// It is over.
    #[error("the task has ended")]
    Ended,
    /// It cannot be suspended twice.
    #[error("the task is suspended already")]
    Suspended,
    /// What is not suspended cannot be resumed.
    #[error("the task is not suspended")]
    NotSuspended,
    /// What it holds in memory does not fit beside its files.
    #[error(
        "the task goes on: what it has in memory takes more than the {free_bytes} bytes that are left of its disk; give its step as \
         much more `disk` as it has `memory`"
    )]
    TooLarge {
        /// What its disk had left.
        free_bytes: u64,
    },
    /// As many tasks are suspended as may be.
    #[error("the task goes on: {most} tasks are suspended at its node, and more may not be")]
    TooMany {
        /// How many.
        most: usize,
    },
    /// Others run in its place.
    #[error("the task stays suspended: its node has no room for it now; try again later")]
    NoRoom,
    /// The host failed. A task that could not be suspended goes on, one that could not be resumed ends.
    #[error("cannot {action} the task: {detail}")]
    Failed {
        /// What was tried, as a verb.
        action: &'static str,
        /// What was said, at most [`super::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_is_answered_or_its_task_has_ended() {
        let (reins, mut orders) = Reins::new();
        let driver = tokio::spawn(async move {
            let order = orders.recv().await.unwrap();
            let is_suspend = order.wish == Wish::Suspend;
            order.answer(Err(SteerError::Suspended));
            // The next one is taken and never answered.
            drop(orders.recv().await);
            is_suspend
        });
        assert_eq!(reins.order(Wish::Suspend).await, Err(SteerError::Suspended));
        assert_eq!(reins.order(Wish::Resume).await, Err(SteerError::Ended));
        assert!(driver.await.unwrap());
        assert_eq!(reins.order(Wish::Resume).await, Err(SteerError::Ended));
    }
}
