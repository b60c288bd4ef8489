use controllerbus::State;

#[derive(State)]
enum Door {
    Open,
    Closed,
}

fn main() {}
