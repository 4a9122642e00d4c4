//! One suite for all runtimes: the same cases against every one of them.
//!
//! A [`Case`] asks a runtime to run `tests/guests/probe.c` and looks at what comes of it. A [`Subject`] is a runtime under
//! test; it says what it lacks, and a case that needs that is skipped with the reason. A further runtime needs a [`Subject`],
//! an arm in [`subject::open`] and a line in `tests/tests/conformance.rs`.
//!
//! ```text
//!  table ──► case ──► Bench ──► Subject ──► runtime under test
//!             │         └ Job: arguments, limits, directories of its own
//!             └ Ended: exit, meters, output, directories
//! ```
//!
//! After each case nothing of it may be left: no container, machine, volume, network or cgroup.

mod bench;
mod cases;
mod kills;
mod probe;
pub mod subject;

pub use bench::{Bench, Ended, Handle, Job, Kept};
pub use kills::{Life, Plan as KillPlan, Tally, live, random_kills};
pub use subject::{Figures, Need, Subject};

/// Something that must hold for every runtime.
#[derive(Debug)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    /// What a runtime must have for it.
    pub needs: &'static [Need],
    check: fn(&Bench),
}

/// Hands all cases to another macro: `then! { (with) room::case [needs], … }`.
#[macro_export]
macro_rules! conformance_cases {
    ($then:ident! ($($with:tt)*)) => {
        $then! { ($($with)*)
            ends::an_exit_code_is_told [],
            ends::a_crash_is_told [],
            ends::output_before_a_crash_is_kept [],
            ends::endless_recursion_ends [],
            ends::a_signal_is_told_by_its_number [Processes],
            ends::processes_in_the_background_end_with_the_task [Processes],
            ends::a_task_killed_from_outside_has_not_succeeded [Outside],

            streams::output_and_errors_are_kept_apart [],
            streams::input_arrives_whole [],
            streams::unread_input_does_no_harm [],
            streams::missing_input_is_empty [],
            streams::every_byte_passes [],
            streams::a_flood_of_output_arrives_whole [],
            streams::the_last_words_of_a_task_arrive [],
            streams::a_task_may_close_its_output [],

            world::arguments_arrive_as_given [],
            world::large_arguments_arrive [],
            world::the_environment_is_what_was_given [],
            world::a_large_environment_arrives [],
            world::clocks_go [],
            world::random_bytes_differ [],
            world::the_name_of_the_host_is_not_told [Kernel, Apart],

            files::files_of_a_task_are_the_nodes [Apart],
            files::one_gibibyte_of_output_is_taken [FilesOnDisk],
            files::ten_thousand_small_files_are_taken [],
            files::deep_directories_are_taken [],
            files::unusual_and_long_names_are_taken [],
            files::files_behave_as_programs_expect [],
            files::mounts_can_be_read_and_not_written [Apart],
            files::too_many_open_files_are_refused [],
            files::every_task_has_a_temporary_directory_of_its_own [Apart],
            files::modes_do_not_lock_the_node_out [Kernel],

            escapes::dots_lead_nowhere [Confined],
            escapes::paths_of_the_host_lead_nowhere [Apart],
            escapes::links_lead_nowhere [Confined],
            escapes::staged_links_lead_nowhere [Apart],
            escapes::nothing_is_moved_or_linked_out [Confined],
            escapes::nothing_is_made_in_the_root_of_the_host [],
            escapes::the_root_of_the_image_cannot_be_written [Kernel, Confined],
            escapes::a_task_has_no_rights [Kernel, Confined],
            escapes::user_namespaces_are_refused [NoUserNamespaces],
            escapes::interfaces_of_the_kernel_cannot_be_written [Kernel, Confined],
            escapes::devices_and_mounts_are_refused [Kernel, Confined],
            escapes::a_task_sees_no_process_but_its_own [Kernel, Confined],
            escapes::signals_do_not_leave [Processes, Apart],

            network::there_is_none_by_default [Sockets, Apart],
            network::there_is_no_interface_by_default [Sockets, Apart, NoInterface],
            network::datagrams_go_nowhere [Sockets, Apart],
            network::sockets_without_a_file_are_not_shared [Sockets, Apart],
            network::a_granted_network_is_there [GrantedNetwork],
            network::a_granted_network_leads_elsewhere_and_not_to_the_hosts_loopback [GrantedNetwork, Elsewhere],

            devices::a_device_is_there_for_the_task_that_holds_it_alone [Devices],
            devices::a_device_gives_no_right_but_to_itself [Devices],
            devices::a_device_that_has_gone_is_told [Devices],

            limits::a_memory_hog_is_ended [],
            limits::memory_within_the_limit_is_given [],
            limits::memory_of_children_counts [Processes],
            limits::files_in_memory_count [Kernel, Apart],
            limits::a_disk_filler_is_ended [],
            limits::many_files_fill_the_disk_too [],
            limits::files_without_a_name_fill_the_disk_too [SharedFiles, NamelessFiles],
            limits::files_that_are_only_mapped_fill_the_disk_too [Kernel, SharedFiles, NamelessFiles],
            limits::holes_fill_the_disk_too [SharedFiles],
            limits::a_fork_bomb_does_no_harm [Processes, Apart],
            limits::processes_are_bounded [Processes, BoundedProcesses],
            limits::a_share_of_a_processor_is_kept [CpuShare],
            limits::whoever_computes_too_long_is_ended [],
            limits::whoever_sleeps_too_long_is_ended [],
            limits::whoever_ignores_signals_is_ended [Processes],
            limits::waiting_for_a_turn_takes_none_of_the_time [],

            cancel::a_task_that_waits_for_its_turn_is_cancelled [],
            cancel::a_task_is_cancelled_at_once [],
            cancel::a_running_task_is_cancelled_whatever_it_does [],
            cancel::a_task_is_cancelled_at_any_moment [],
            cancel::a_task_that_has_ended_stays_as_it_ended [],
            cancel::a_task_whose_handle_is_dropped_ends [],

            crowd::tasks_beside_each_other_do_not_mix [],
            crowd::further_tasks_wait_for_their_turn [],
            crowd::after_bad_tasks_a_good_one_runs [],

            meters::processor_time_is_right_within_a_twentieth [EvenStarts],
            meters::processor_time_of_children_counts [Processes, EvenStarts],
            meters::memory_is_right [PromptMeters],
            meters::storage_is_right [SharedFiles, Apart],
            meters::rest_costs_time_and_nothing_else [EvenStarts],
            meters::meters_can_be_read_while_it_runs_and_only_grow [PromptMeters],

            lives::tasks_of_a_killed_node_end [],
            lives::a_task_that_its_next_life_removed_is_lost_and_says_so [OutlivesNode, TwoLives],
            lives::random_kills_leave_nothing [OutlivesNode, SettledStarts],
        }
    };
}

macro_rules! table {
    (() $($room:ident::$case:ident [$($need:ident),*],)*) => {
        /// All cases, in the order of [`conformance_cases`].
        pub const CASES: &[Case] = &[$(Case {
            name: stringify!($case),
            needs: &[$(Need::$need),*],
            check: cases::$room::$case,
        }),*];
    };
}
conformance_cases!(table!());

/// Runs one case against one runtime, or says why not.
///
/// # Panics
/// When the case does not hold, or something of it is left behind.
pub fn run(subject: &str, case: &str) {
    let found = CASES.iter().find(|found| found.name == case);
    let case = found.unwrap_or_else(|| panic!("there is no case `{case}`"));
    let bench = match Bench::new(subject) {
        Ok(bench) => bench,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    if let Some(reason) = case.needs.iter().find_map(|need| bench.lacks(*need)) {
        println!("skipped: {reason}");
        return;
    }
    (case.check)(&bench);
    bench.must_be_clean();
}
