//! A fleet over memory: what each host sees when hosts come, go, are cut off and come back. The clock is paused, and so no test waits.

mod apart;
mod kit;
mod large;
mod limits;
mod one;
mod raw;
mod statuses;
mod threads;
mod together;
