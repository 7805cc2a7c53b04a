//! The library that writes `RateLimit` and `RateLimit-Policy`, against the vectors of RFC 9651 in
//! `conformance/structured-fields`: a field that it reads or writes is one that everybody reads the same way.
use countersign_testkit::vectors;
use serde_json::Value;
use sfv::{
    BareItem, Date, Decimal, Dictionary, FieldType, Integer, Item, Key, List, Parser, StringRef, TokenRef,
};

const CASES: usize = 2_135;

#[test]
fn structured_fields_are_read_and_written_as_rfc_9651_says() {
    let Some(folder) = vectors("structured-fields") else { return };
    let (mut count, mut wrong) = (0, Vec::new());
    for (folder, judge) in [
        (folder.clone(), read_and_written as fn(&Value) -> Result<(), String>),
        (folder.join("serialisation-tests"), refused_or_written),
    ] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for case in &cases {
                count += 1;
                if let Err(why) = judge(case) {
                    wrong.push(format!("{}: {}: {why}", path.file_name().unwrap().display(), case["name"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, CASES, "not all vectors are there");
}

/// From the text of a field to its one canonical text, or to a refusal.
fn read_and_written(case: &Value) -> Result<(), String> {
    let lines = |name: &str| -> Option<String> {
        let lines: Vec<&str> = case[name].as_array()?.iter().map(|line| line.as_str().unwrap()).collect();
        Some(lines.join(", "))
    };
    let raw = lines("raw").unwrap();
    let written = match case["header_type"].as_str().unwrap() {
        "item" => written(Parser::new(&raw).parse::<Item>().ok()),
        "list" => written(Parser::new(&raw).parse::<List>().ok()),
        _ => written(Parser::new(&raw).parse::<Dictionary>().ok()),
    };
    match (case["must_fail"] == true, case["can_fail"] == true, written) {
        (true, _, Some(text)) => Err(format!("must be refused, and is {text:?}")),
        (true, _, None) | (false, true, None) => Ok(()),
        (false, _, got) => {
            let want = lines("canonical").unwrap_or(raw);
            if got.as_deref() == Some(&want) { Ok(()) } else { Err(format!("{got:?}, not {want:?}")) }
        }
    }
}

/// `None` is a refusal; a list or dictionary without members is no text at all.
fn written<T: FieldType>(field: Option<T>) -> Option<String>
where
    T::SerializeResult: Into<Option<String>>,
{
    field.map(|field| field.serialize().into().unwrap_or_default())
}

/// From values to a text, or to a refusal to hold such a value.
fn refused_or_written(case: &Value) -> Result<(), String> {
    let expected = &case["expected"];
    let made = match case["header_type"].as_str().unwrap() {
        "item" => item(expected).map(|item| item.serialize()),
        "list" => expected
            .as_array()
            .unwrap()
            .iter()
            .map(|member| entry(member).map(drop))
            .collect::<Option<_>>()
            .map(|()| String::new()),
        _ => members(expected).map(|()| String::new()),
    };
    match (case["must_fail"] == true, made) {
        (true, Some(text)) => Err(format!("must be refused, and is {text:?}")),
        (true, None) => Ok(()),
        (false, got) => {
            let want = case["canonical"][0].as_str().map(str::to_owned);
            if got == want { Ok(()) } else { Err(format!("{got:?}, not {want:?}")) }
        }
    }
}

/// `[[key, [value, parameters]], …]`.
fn members(pairs: &Value) -> Option<()> {
    pairs.as_array().unwrap().iter().try_for_each(|pair| {
        Key::from_string(pair[0].as_str().unwrap().to_owned()).ok()?;
        entry(&pair[1])
    })
}

/// An item, or a list of them, each with its parameters.
fn entry(member: &Value) -> Option<()> {
    match member[0].as_array() {
        Some(inner) => {
            inner.iter().try_for_each(|value| item(value).map(drop))?;
            parameters(&member[1])
        }
        None => item(member).map(drop),
    }
}

fn item(member: &Value) -> Option<Item> {
    parameters(&member[1])?;
    Some(Item::new(bare(&member[0])?))
}

fn parameters(pairs: &Value) -> Option<()> {
    pairs.as_array().unwrap().iter().try_for_each(|pair| {
        Key::from_string(pair[0].as_str().unwrap().to_owned()).ok()?;
        bare(&pair[1]).map(drop)
    })
}

fn bare(value: &Value) -> Option<BareItem> {
    Some(match value {
        Value::Bool(value) => BareItem::Boolean(*value),
        Value::String(text) => StringRef::from_str(text).ok()?.into(),
        Value::Number(number) if number.is_f64() => Decimal::try_from(number.as_f64()?).ok()?.into(),
        Value::Number(number) => Integer::try_from(number.as_i64()?).ok()?.into(),
        Value::Object(tagged) => match tagged["__type"].as_str().unwrap() {
            "token" => TokenRef::from_str(tagged["value"].as_str().unwrap()).ok()?.into(),
            "date" => Date::from_unix_seconds(Integer::try_from(tagged["value"].as_i64()?).ok()?).into(),
            other => panic!("{other}"),
        },
        other => panic!("{other}"),
    })
}
