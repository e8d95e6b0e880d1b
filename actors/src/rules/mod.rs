//! The rules of admission: pure, without a runtime, without a clock of their own.
//!
//! | file | the rule |
//! |---|---|
//! | [`moment`] | time as rules see it |
//! | [`window`] | so many in any sixty seconds |
//! | [`slots`] | so many at once |
//! | [`account`] | windows and slots of one party |
//! | [`book`] | the accounts of a tenant and its keys |
//! | [`learned`] | how many tokens replies have had |
//! | [`budget`] | so many tokens in a period |
//! | [`breaker`] | whether an upstream is asked at all |
//! | [`fair_queue`] | who is next, fair over tenants |
//! | [`lane`] | breaker, slots and queue of one upstream |

pub mod account;
pub mod book;
pub mod breaker;
pub mod budget;
pub mod fair_queue;
pub mod lane;
pub mod learned;
pub mod moment;
pub mod slots;
pub mod window;
