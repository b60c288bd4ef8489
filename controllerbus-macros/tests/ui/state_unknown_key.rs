use controllerbus::State;

#[derive(State)]
struct Count {
    #[state(rename = "hits")]
    visits: u64,
}

fn main() {}
