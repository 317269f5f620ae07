//! The table of what cells may not ask of the kernel, as a profile for the engine.
//! Never: a rule that isn't in the table.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::refused::{
    Call, FAMILIES, NAMESPACES, NO_SUCH_FAMILY, NOT_PERMITTED, NOT_THERE, REFUSED, TERMINAL_INPUT, UNKNOWN,
};

/// As numbers of families go; what is above isn't one.
const FAMILY_LAST: u32 = 46;

/// The profile as the engine takes it.
pub(super) fn profile() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| make().to_string());
    &TEXT
}

fn make() -> Value {
    let refuse = |names: &[&str], errno: u32, arguments: Value| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments });
    let names = |calls: &[Call]| calls.iter().map(|call| call.name).collect::<Vec<_>>();
    let is = |index: u32, value: u32| json!([{ "index": index, "value": value, "op": "SCMP_CMP_EQ" }]);
    let mut rules =
        vec![refuse(&names(REFUSED), NOT_PERMITTED, json!([])), refuse(&names(UNKNOWN), NOT_THERE, json!([]))];
    let flags = (0..32).map(|bit| 1u32 << bit).filter(|flag| NAMESPACES & flag != 0);
    rules.extend(flags.map(|flag| {
        let has = json!([{ "index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ" }]);
        refuse(&["clone"], NOT_PERMITTED, has)
    }));
    let families = (0..FAMILY_LAST).filter(|family| !FAMILIES.contains(family));
    rules.extend(families.map(|family| refuse(&["socket", "socketpair"], NO_SUCH_FAMILY, is(0, family))));
    rules.extend(TERMINAL_INPUT.map(|order| refuse(&["ioctl"], NOT_PERMITTED, is(1, order))));
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures(), "syscalls": rules })
}

/// With those of 32 bits, by which the rules could be passed by otherwise.
fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What an engine with this profile says to a call with these first arguments; `None`: it lets it through.
    pub(crate) fn says(name: &str, arguments: [u32; 2]) -> Option<u32> {
        let profile: Value = serde_json::from_str(profile()).unwrap();
        let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let holds = |rule: &Value| {
            let held = arguments[usize::try_from(number(&rule["index"])).unwrap()];
            match rule["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => held == number(&rule["value"]),
                "SCMP_CMP_MASKED_EQ" => held & number(&rule["value"]) == number(&rule["valueTwo"]),
                other => panic!("{other}"),
            }
        };
        let named = |rule: &&Value| rule["names"].as_array().unwrap().iter().any(|known| known == name);
        let rules = profile["syscalls"].as_array().unwrap();
        let mut rules = rules.iter().filter(named).filter(|rule| rule["args"].as_array().unwrap().iter().all(holds));
        rules.next().map(|rule| number(&rule["errnoRet"]))
    }
}
