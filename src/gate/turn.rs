//! How a long piece of work lets a worker's other callers in.
//!
//! Invariant: who waits here goes on only after the worker has looked at its sockets, however often its
//! task is woken meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::task::yield_now;

/// Gives up the turn.
///
/// tokio keeps whoever yields until it has looked for news, but wakes its task, and a task that somebody
/// else wakes runs before that: a connection is woken for each piece of a body, and a runtime looks for
/// news after 61 such turns only.
pub async fn give_up_turn() {
    let looked = Arc::new(Looked::default());
    let waker = Waker::from(Arc::clone(&looked));
    let mut turn = pin!(yield_now());
    if turn.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        poll_fn(|context| looked.poll(context)).await;
    }
}

/// That the worker has looked at its sockets.
#[derive(Default)]
struct Looked {
    done: AtomicBool,
    task: AtomicWaker,
}

impl Looked {
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.task.register(context.waker());
        if self.done.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for Looked {
    fn wake(self: Arc<Self>) {
        self.done.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::runtime::Builder;

    use super::*;

    /// Polls a future whose task is woken for something else too, as a connection's is for a piece of a
    /// body.
    async fn woken_besides(future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let mut wakes = 3;
        poll_fn(|context| {
            if wakes > 0 {
                wakes -= 1;
                context.waker().wake_by_ref();
            }
            future.as_mut().poll(context)
        })
        .await;
    }

    fn others_come_first(give_up: impl Future<Output = ()> + Send + 'static) -> bool {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut reader, writer) = UnixStream::pair().unwrap();
            let read = Arc::new(AtomicBool::new(false));
            let news = Arc::clone(&read);
            tokio::spawn(async move { news.store(reader.read_u8().await.is_ok(), Ordering::Relaxed) });
            // By then the other has read, in vain.
            writer.writable().await.unwrap();
            give_up_turn().await;
            let busy = async move {
                assert_eq!(writer.try_write(b"!").unwrap(), 1);
                woken_besides(give_up).await;
                read.load(Ordering::Relaxed)
            };
            tokio::spawn(busy).await.unwrap()
        })
    }

    #[test]
    fn news_for_others_is_seen_first() {
        assert!(others_come_first(give_up_turn()));
        assert!(!others_come_first(yield_now()), "tokio's own is enough by now");
    }
}
