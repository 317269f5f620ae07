//! The integration tests of the whole: every flow through the front door of the real binary, and the rules of the house.
//! Never: a test that reaches past the front door for what a person could ask for there.

mod chat;
mod crash;
mod egress;
mod hostile;
mod isolation;
mod journey;
mod keys;
mod live;
mod lost;
mod money;
mod prices;
mod repair;
mod sealed;
mod stack;
mod startup;
mod stolen;
mod stop;
mod storm;
mod suspend;
mod tidy;
mod watch;
mod wrong_input;
