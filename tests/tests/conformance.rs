//! The conformance suite of the runtimes: each case against each of them, as a test of its own, such as
//! `docker::a_memory_hog_is_ended`. The cases stand in `tests/src/conformance`; what cannot be tried says `skipped: …`.

macro_rules! subject {
    (($subject:ident) $($room:ident::$case:ident [$($need:ident),*],)*) => {
        mod $subject {
            $(
                #[test]
                fn $case() {
                    tests::conformance::run(stringify!($subject), stringify!($case));
                }
            )*
        }
    };
}

tests::conformance_cases!(subject!(wasi));
tests::conformance_cases!(subject!(docker));
tests::conformance_cases!(subject!(podman));
tests::conformance_cases!(subject!(vm));
tests::conformance_cases!(subject!(slurm));
tests::conformance_cases!(subject!(kubernetes));
