//! `molt prices`: what calls cost, and a newer list of what providers ask.
//! Never: a list in force that this installation's settings can't be used with.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use molt_model::{Catalog, Nanos, Price, TokenUsage};
use molt_store::{Store, SystemTx};
use serde_json::json;

use super::list::{Change, LIST_BYTES_MAX, PriceList};
use super::list_in_force;
use crate::commands::{ACTOR, open};
use crate::config::Config;

/// What a price is shown for, so that a person can judge it: a turn of an assistant, roughly.
const EXAMPLE: TokenUsage = TokenUsage { input: 12_000, output: 500, cache_read: 0, cache_write: 0, reasoning: 0 };

/// Reads a list, shows what it changes, and puts it in force in every process.
pub async fn import(config: &Config, file: &Path) -> anyhow::Result<()> {
    let size = std::fs::metadata(file).with_context(|| format!("{} can't be read", file.display()))?.len();
    if size > LIST_BYTES_MAX {
        bail!("{} is too long for a list of prices", file.display());
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{} can't be read", file.display()))?;
    let given = PriceList::parse(&text)?;
    let (store, now) = open(config).await?;
    let mut tx = store.system().await?;
    tx.lock_price_lists().await?;
    let earlier = list_in_force(&mut tx).await?;
    let list = given.clone().over(&earlier);
    let before = catalog(config, &mut tx, &earlier).await.ok();
    let after = catalog(config, &mut tx, &list).await.context("nothing was imported")?;
    print!("{}", difference(&earlier, &list, &given));
    let same = list.version() == earlier.version() && tx.price_list_number().await?.is_some();
    if same {
        println!("This list is in force already ({}).", list.version());
        return Ok(());
    }
    let number = tx.import_price_list(&list.version(), list.date, &list.source, &json!(list), now).await?;
    let detail = json!({ "number": number, "source": list.source, "before": earlier.version() });
    tx.audit(ACTOR, "prices.import", &list.version(), &detail, now).await?;
    tx.commit().await?;
    println!(
        "In force now: {} ({}). Calls that have begun are charged at the prices before.",
        list.version(),
        list.source
    );
    if before.is_some_and(|before| before.prices() == after.prices()) {
        println!("The models of this installation cost the same as before.");
    }
    Ok(())
}

/// Prints the prices in force, or those of a version that a usage row or an import names.
pub async fn show(config: &Config, model: Option<&str>, version: Option<&str>) -> anyhow::Result<()> {
    let (store, _) = open(config).await?;
    let text = match version {
        None => now(config, &store, model).await?,
        Some(version) => of_version(&store, model, version).await?,
    };
    print!("{text}");
    Ok(())
}

async fn now(config: &Config, store: &Store, model: Option<&str>) -> anyhow::Result<String> {
    let mut tx = store.system().await?;
    let list = list_in_force(&mut tx).await?;
    let catalog = catalog(config, &mut tx, &list).await?;
    let books = tx.price_books().await?;
    let mut text = String::new();
    if let Some(name) = model {
        let targets = catalog.resolve(name);
        if targets.is_empty() {
            bail!("\"{name}\" can't be called here: no price of it is known, and its provider has no ceiling");
        }
        for target in targets {
            let ceiling = if target.ceiling { " (unknown: billed at the provider's ceiling)" } else { "" };
            writeln!(text, "{}{ceiling}", target.id)?;
            text.push_str(&in_full(&target.facts.price));
        }
        return Ok(text);
    }
    writeln!(text, "Price book {}, from the list {} of {}", catalog.version.0, list.version(), list.date)?;
    writeln!(
        text,
        "{}{}",
        list.source,
        if list.licence.is_empty() { String::new() } else { format!(" ({})", list.licence) }
    )?;
    let shown: Vec<(&str, &Price)> = catalog.prices().into_iter().collect();
    text.push_str(&table(&shown));
    let versions: Vec<&str> = books.iter().map(|book| book.version.as_str()).collect();
    if !versions.is_empty() {
        writeln!(text, "\nBooks that calls were charged at, newest first: {}", versions.join(", "))?;
    }
    Ok(text)
}

async fn of_version(store: &Store, model: Option<&str>, version: &str) -> anyhow::Result<String> {
    let mut tx = store.system().await?;
    let (head, prices) = if let Some(book) = tx.price_book(version).await? {
        let from = book.list_version.map_or_else(String::new, |list| format!(", from the list {list}"));
        let source = book.source.map_or_else(String::new, |source| format!("{source}\n"));
        let prices = serde_json::from_value(book.prices).context("this book was kept in a form that isn't known")?;
        (format!("Price book {version}{from}, since {}\n{source}", book.created_at.format("%-d %B %Y")), prices)
    } else if let Some(stored) = tx.price_list_of(version).await? {
        let head =
            format!("List {version} of {}, imported on {}", stored.dated, stored.imported_at.format("%-d %B %Y"));
        (format!("{head}\n{}\n", stored.source), PriceList::stored(stored.list)?.prices())
    } else if PriceList::built_in().version() == version {
        let list = PriceList::built_in();
        (format!("List {version}, which this program came with\n{}\n", list.source), list.prices())
    } else {
        bail!("there is no price book and no list of version {version}");
    };
    let prices: std::collections::BTreeMap<String, Price> = prices;
    match model {
        None => {
            let shown: Vec<(&str, &Price)> = prices.iter().map(|(id, price)| (id.as_str(), price)).collect();
            Ok(head + &table(&shown))
        }
        Some(id) => {
            let price = prices.get(id).with_context(|| format!("\"{id}\" has no price in {version}"))?;
            Ok(format!("{head}{id}\n{}", in_full(price)))
        }
    }
}

/// As a proxy that holds the keys makes it.
async fn catalog(config: &Config, tx: &mut SystemTx, list: &PriceList) -> anyhow::Result<Catalog> {
    Ok(config.offer.catalog(list, &tx.keyed_providers().await?)?)
}

fn difference(earlier: &PriceList, list: &PriceList, given: &PriceList) -> String {
    let mut text = String::new();
    for (id, change) in list.changes_since(earlier) {
        let line = match change {
            Change::Added(price) => format!("+ {id}: {}", in_short(&price)),
            Change::Removed(price) => format!("- {id}: {}", in_short(&price)),
            Change::Changed(old, new) => format!("~ {id}: {} → {}", in_short(&old), in_short(&new)),
        };
        text.push_str(&line);
        text.push('\n');
    }
    for id in given.left_out() {
        text.push_str(&format!("  {id}: left out, since no price that can be charged stands there\n"));
    }
    text
}

/// `$2.5 in, $15 out, …`, everything that a price has.
fn in_short(price: &Price) -> String {
    let mut text = format!("{} in, {} out", usd(price.input), usd(price.output));
    let parts = [(price.cache_read, "cached"), (price.cache_write, "into the cache"), (price.reasoning, "thought")];
    for (rate, word) in parts.into_iter().filter_map(|(rate, word)| Some((rate?, word))) {
        text.push_str(&format!(", {} {word}", usd(rate)));
    }
    if price.per_request > 0 {
        text.push_str(&format!(", {} a call", usd(price.per_request)));
    }
    for tier in &price.tiers {
        let above = tier.above_input_tokens;
        text.push_str(&format!("; above {above} tokens {} in, {} out", usd(tier.input), usd(tier.output)));
        let parts = [(tier.cache_read, "cached"), (tier.cache_write, "into the cache"), (tier.reasoning, "thought")];
        for (rate, word) in parts.into_iter().filter_map(|(rate, word)| Some((rate?, word))) {
            text.push_str(&format!(", {} {word}", usd(rate)));
        }
    }
    text
}

fn in_full(price: &Price) -> String {
    let example = price.charge(&EXAMPLE);
    let (input, output) = (EXAMPLE.input, EXAMPLE.output);
    format!(
        "  per million tokens, as the provider charges: {}\n  \
         charged for {input} tokens in and {output} out, 20 % included: ${example}\n",
        in_short(price)
    )
}

fn table(prices: &[(&str, &Price)]) -> String {
    let width = prices.iter().map(|(id, _)| id.len()).max().unwrap_or_default();
    let mut text = "US dollars per million tokens, before the 20 %:\n".to_owned();
    for (id, price) in prices {
        text.push_str(&format!("  {id:width$}  {}\n", in_short(price)));
    }
    text
}

/// Without zeros that say nothing.
fn usd(nanos: i64) -> String {
    let text = Nanos(nanos).to_string();
    format!("${}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use molt_model::Tier;

    #[test]
    fn prices_read_as_people_write_them() {
        let tier =
            Tier { above_input_tokens: 272_000, input: 5_000_000_000, output: 22_500_000_000, ..Tier::default() };
        let price = Price { per_request: 10_000_000, tiers: vec![tier], ..Price::flat(2_500_000_000, 15_000_000_000) };
        let short = "$2.5 in, $15 out, $0.25 cached, $0.01 a call; above 272000 tokens $5 in, $22.5 out";
        let price = price.with_cache_read(250_000_000);
        assert_eq!(in_short(&price), short);
        assert!(in_full(&price).ends_with("500 out, 20 % included: $0.057000\n"), "{}", in_full(&price));
        assert_eq!((usd(0), usd(100_000_000_000)), ("$0".to_owned(), "$100".to_owned()));
    }
}
