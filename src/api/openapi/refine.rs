//! What derived schemas do not say, in a form that generators of clients take: objects are flat and have names,
//! open ones say that they are open, and JSON in a parameter is text.
//!
//! `oneOf` of whole objects would say which fields exclude each other, and most generators stumble over it: what
//! excludes what stands in words, and the server refuses it.

use serde_json::Value;
use utoipa::openapi::{
    Components, Object, ObjectBuilder, OneOfBuilder, OpenApi, Ref, RefOr, Schema,
    path::{Operation, Parameter, ParameterIn, PathItem},
    schema::{
        AdditionalProperties, AllOf, Array, ArrayItems, OneOf, SchemaFormat, SchemaType, Type,
    },
};

use crate::domain::QueueName;

use super::super::schemas::QUEUE_NAME;

/// The operations of a path.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
    methods.into_iter().flatten()
}

/// What a text consists of: a pattern, and the least and the most characters.
type Text = (&'static str, usize, usize);
const QUEUE: Text = (QUEUE_NAME, 1, QueueName::MAX_CHARS);
const ROUTING_KEY: Text = (r"^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$", 1, 255);
/// Words in which no two wildcards stand side by side.
const TOPIC: Text =
    (r"^([*#]|[*#]?([a-zA-Z0-9_-][*#]?)+)(\.([*#]|[*#]?([a-zA-Z0-9_-][*#]?)+))*$", 1, 255);
const KEY: Text = ("^[!-~]([ -~]*[!-~])?$", 1, 255);
/// PostgreSQL's text has no NUL.
const PLAIN: Text = (r"^[^\u0000]*$", 0, usize::MAX);
/// Its bytes are counted, which no pattern can say.
const REASON: Text = (r"^[^\u0000]*$", 0, 1_024);
const RECEIPT: Text = ("^[a-zA-Z0-9_-]+$", 1, usize::MAX);
/// A number of messages, or a time.
const PARTITION: Text =
    ("^[1-9][0-9]{0,8}$|^[1-9][0-9]{0,3} (second|minute|hour|day|week|month|year)s?$", 1, 12);

/// Parameters, by their place and name, and what they consist of.
const PARAMETERS: [(ParameterIn, &str, Text); 8] = [
    (ParameterIn::Path, "queue", QUEUE),
    (ParameterIn::Path, "routing_key", ROUTING_KEY),
    (ParameterIn::Query, "pattern", TOPIC),
    (ParameterIn::Query, "prefix", PLAIN),
    (ParameterIn::Query, "receipt", RECEIPT),
    (ParameterIn::Query, "after", PLAIN),
    (ParameterIn::Header, "Idempotency-Key", KEY),
    (ParameterIn::Header, "Prefer", KEY),
];

/// Fields, by their schema and name, and what they consist of.
const FIELDS: [(&str, &str, Text); 6] = [
    ("DeadLetter", "reason", REASON),
    ("Bind", "pattern", TOPIC),
    ("EndOperation", "receipt", RECEIPT),
    ("PartitionBody", "interval", PARTITION),
    ("PartitionBody", "retention", PARTITION),
    ("SetVtOperation", "receipt", RECEIPT),
];

/// The parameter that is JSON, and the name of its format.
const FILTER: &str = "filter";
const JSON_OBJECT: &str = "json-object";
/// What headers of messages are called, as a field and as a schema.
const HEADERS: &str = "headers";
const MESSAGE_HEADERS: &str = "MessageHeaders";

/// Adds it to a document.
pub(super) fn refine(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    refine_parameter(parameter);
                }
            }
            name_body(operation, components);
        }
    }
    for schema in components.schemas.values_mut() {
        flatten(schema);
        visit(schema, &mut refine_object);
    }
    for (name, field, text) in FIELDS {
        if let Some(RefOr::T(Schema::Object(schema))) = components.schemas.get_mut(name) {
            consist(schema, field, text);
        }
    }
    components.schemas.insert(MESSAGE_HEADERS.to_owned(), message_headers());
}

/// The headers of a message.
fn message_headers() -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Headers of a message: any JSON object."))
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
        .examples([serde_json::json!({"trace": "abc"})]);
    RefOr::T(object.build().into())
}

fn refine_parameter(parameter: &mut Parameter) {
    // As a text, which every generator takes; as content with a type, most leave it out. With a media type, the pages
    // ask for a file.
    if parameter.name == FILTER {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom(JSON_OBJECT.to_owned())));
        parameter.schema = Some(RefOr::T(text.build().into()));
    }
    if parameter.name == "queue" && parameter.description.is_none() {
        let text = "The queue. One that another client made may have other characters in its name.";
        parameter.description = Some(text.to_owned());
    }
    for (place, name, text) in PARAMETERS {
        let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { continue };
        let is_text = schema.format.is_none() && allows(schema, &Type::String);
        if parameter.parameter_in == place && parameter.name == name && is_text {
            schema.schema_type = Type::String.into();
            limit(schema, text);
        }
    }
}

/// A body that may be left out stands in the operation itself, and so has no name: it gets the operation's. That it
/// may be null, too, is left out: clients would send that in place of nothing.
fn name_body(operation: &mut Operation, components: &mut Components) {
    let name = operation.operation_id.as_deref().map(pascal_case).unwrap_or_default();
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(RefOr::T(Schema::OneOf(choices))) = &content.schema else { continue };
        let is_whole = |schema: &&RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if !object.properties.is_empty());
        let Some(whole) = choices.items.iter().find(is_whole).cloned() else { continue };
        components.schemas.insert(name.clone(), whole);
        content.schema = Some(RefOr::Ref(Ref::from_schema_name(&name)));
    }
}

fn pascal_case(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(word).collect()
}

/// One object in place of several that have to fit together.
fn flatten(schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::AllOf(all)) = schema else { return };
    if let Some(whole) = merged(all) {
        *schema = RefOr::T(whole.into());
    }
}

/// The fields of all objects; nothing if one of them is something else.
fn merged(all: &AllOf) -> Option<Object> {
    let mut whole = Object::with_type(Type::Object);
    for item in &all.items {
        let RefOr::T(Schema::Object(object)) = item else { return None };
        let fields = object.properties.iter().map(|(name, field)| (name.clone(), field.clone()));
        whole.properties.extend(fields);
        whole.required.extend(object.required.iter().cloned());
    }
    whole.description.clone_from(&all.description);
    Some(whole)
}

/// One schema in place of what a field holds and what is said of the field, or of what it holds and null: as long as
/// neither says what the other does.
fn merge(field: &mut RefOr<Schema>) {
    let RefOr::T(schema) = field else { return };
    let whole = match schema {
        Schema::AllOf(all) => described(all),
        Schema::OneOf(choices) => or_null(choices),
        _ => None,
    };
    if let Some(whole) = whole {
        *schema = whole;
    }
}

/// What a field holds, with what is said of the field.
fn described(all: &AllOf) -> Option<Schema> {
    let [RefOr::T(held), RefOr::T(Schema::Object(said))] = &*all.items else { return None };
    let mut whole = held.clone();
    let plain = plain(&mut whole)?;
    plain.description.clone_from(&said.description);
    plain.default.clone_from(&said.default);
    Some(whole)
}

/// What a field holds, or null.
fn or_null(choices: &OneOf) -> Option<Schema> {
    let [RefOr::T(held), RefOr::T(Schema::Object(null))] = &*choices.items else { return None };
    let mut whole = held.clone();
    let plain = plain(&mut whole).filter(|_| allows(null, &Type::Null))?;
    let SchemaType::Type(held) = plain.schema_type.clone() else { return None };
    *plain.schema_type = SchemaType::Array(vec![held, Type::Null]);
    plain.description.clone_from(&choices.description);
    plain.default.clone_from(&choices.default);
    Some(whole)
}

/// Parts of the schema of a number, a text or a list.
struct Plain<'a> {
    schema_type: &'a mut SchemaType,
    description: &'a mut Option<String>,
    default: &'a mut Option<Value>,
}

/// Those of a schema of which nothing is said.
fn plain(schema: &mut Schema) -> Option<Plain<'_>> {
    let plain = match schema {
        Schema::Object(object) if !allows(object, &Type::Object) => {
            let Object { schema_type, description, default, .. } = object;
            Plain { schema_type, description, default }
        }
        Schema::Array(list) => {
            let Array { schema_type, description, default, .. } = list;
            Plain { schema_type, description, default }
        }
        _ => return None,
    };
    plain.description.is_none().then_some(plain)
}

/// Does something to every object of a schema, the inner ones first.
fn visit(schema: &mut RefOr<Schema>, change: &mut dyn FnMut(&mut Object)) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            object.properties.values_mut().for_each(|field| visit(field, change));
            change(object);
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                visit(items, change);
            }
        }
        Schema::OneOf(choices) => choices.items.iter_mut().for_each(|one| visit(one, change)),
        Schema::AllOf(all) => all.items.iter_mut().for_each(|one| visit(one, change)),
        Schema::AnyOf(any) => any.items.iter_mut().for_each(|one| visit(one, change)),
        _ => {}
    }
}

fn refine_object(object: &mut Object) {
    object.properties.values_mut().for_each(merge);
    if object.properties.is_empty()
        && object.additional_properties.is_none()
        && allows(object, &Type::Object)
    {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
    }
    if let Some(field) = object.properties.get_mut(HEADERS) {
        name_headers(field);
    }
}

/// Headers have a schema of their own, by whose name clients make them.
fn name_headers(field: &mut RefOr<Schema>) {
    let RefOr::T(Schema::Object(object)) = field else { return };
    if !allows(object, &Type::Object) {
        return;
    }
    let headers = RefOr::Ref(Ref::from_schema_name(MESSAGE_HEADERS));
    if !allows(object, &Type::Null) {
        *field = headers;
        return;
    }
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    let either = OneOfBuilder::new().item(headers).item(null);
    *field = RefOr::T(either.description(object.description.take()).build().into());
}

fn consist(schema: &mut Object, field: &str, text: Text) {
    if let Some(RefOr::T(Schema::Object(field))) = schema.properties.get_mut(field) {
        limit(field, text);
    }
}

fn limit(schema: &mut Object, (pattern, least, most): Text) {
    schema.pattern = Some(pattern.to_owned());
    schema.min_length = Some(least).filter(|least| *least > 0);
    schema.max_length = Some(most).filter(|most| *most < usize::MAX);
}

fn allows(schema: &Object, wanted: &Type) -> bool {
    match &schema.schema_type {
        SchemaType::Type(found) => found == wanted,
        SchemaType::Array(found) => found.contains(wanted),
        SchemaType::AnyValue => false,
    }
}
