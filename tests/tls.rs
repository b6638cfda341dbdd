//! Encrypted connections to real servers, with certificates that the tests create: what is trusted,
//! what is refused and why, and the whole pipeline over TLS.

mod amqp;
mod http;
mod pipeline;
mod postgres;
