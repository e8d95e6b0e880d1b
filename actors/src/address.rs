//! Where the living instance of an actor is found, across restarts.
//!
//! An `ActorRef` dies with its actor. A supervisor therefore publishes each new instance here, and
//! handles read the current one for every message.

use ractor::{ActorCell, ActorRef, Message};
use tokio::sync::watch;

/// The reading side. Before the first instance is published, messages go nowhere.
pub(crate) struct Address<M>(watch::Receiver<Option<ActorRef<M>>>);

/// The writing side.
pub(crate) struct Published<M>(watch::Sender<Option<ActorRef<M>>>);

/// Both sides.
pub(crate) fn unpublished<M: Message>() -> (Published<M>, Address<M>) {
    let (sender, receiver) = watch::channel(None);
    (Published(sender), Address(receiver))
}

impl<M: Message> Address<M> {
    /// Sends a message to the current instance; one that is sent to a dead instance is lost.
    pub(crate) fn cast(&self, message: M) {
        if let Some(actor) = self.0.borrow().as_ref() {
            let _ = actor.send_message(message);
        }
    }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: Message> Published<M> {
    pub(crate) fn is(&self, who: &ActorCell) -> bool {
        self.0.borrow().as_ref().is_some_and(|actor| actor.get_id() == who.get_id())
    }

    pub(crate) fn replace(&self, next: ActorRef<M>) {
        self.0.send_replace(Some(next));
    }

    pub(crate) fn current(&self) -> Option<ActorRef<M>> {
        self.0.borrow().clone()
    }
}
