//! `molt-cell`: process 1 of a bot's container. It supervises the runtime, speaks its protocol, and serves health,
//! configuration and chat to the platform.
//! Never: the database, a host's API, or a secret where the runtime's tools could read it.

pub mod apply;
pub mod chat;
pub mod config;
pub mod environment;
pub mod failure;
pub mod forward;
pub mod gateway;
pub mod health;
pub mod http;
pub mod isolate;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod outlet;
pub mod process;
pub mod proxy;
pub mod recover;
pub mod runtime;
pub mod settings;
pub mod supervisor;
pub mod tls;
pub mod tools;
pub mod traces;
pub mod translate;
