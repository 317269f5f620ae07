//! What an operator decides about payments.
//! Never: half a provider.

/// Who takes the payments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Config {
    /// Nobody: a page of ours says so and accepts the plan.
    #[default]
    Local,
}
