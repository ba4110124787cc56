//! Every text of the console, in English and in Korean. A text that lacks one of them does not compile, and
//! neither does a template that names a text which is not here.

use axum::http::{HeaderMap, header};

use crate::console::session;

/// The cookie that remembers a choice; without it `Accept-Language` decides.
pub(super) const COOKIE: &str = "console_lang";

/// A language of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lang {
    /// English.
    En,
    /// Korean.
    Ko,
}

impl Lang {
    /// What the request asks for: its cookie, else the first language that it accepts and we have.
    pub fn of(headers: &HeaderMap) -> Self {
        let chosen = session::cookies(headers, COOKIE)
            .next()
            .and_then(|cookie| Self::named(cookie.value()));
        chosen.unwrap_or_else(|| {
            let accepted = headers
                .get(header::ACCEPT_LANGUAGE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            Self::accepted(accepted)
        })
    }

    /// By its code.
    pub fn named(code: &str) -> Option<Self> {
        match code {
            "en" => Some(Self::En),
            "ko" => Some(Self::Ko),
            _ => None,
        }
    }

    /// The language with the highest weight; English when none is ours.
    fn accepted(header: &str) -> Self {
        let mut best = (Self::En, 0.0);
        for item in header.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let tag = parts.next().unwrap_or_default();
            let primary = tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(Some(1.0), |q| q.parse::<f32>().ok())
                .filter(|q| (0.0..=1.0).contains(q));
            if let (Some(lang), Some(weight)) = (Self::named(&primary), weight)
                && weight > best.1
            {
                best = (lang, weight);
            }
        }
        best.0
    }
}

macro_rules! text {
    ($name:ident [] $en:literal $ko:literal) => {
        #[must_use]
        pub fn $name(self) -> &'static str {
            match self {
                Self::En => $en,
                Self::Ko => $ko,
            }
        }
    };
    ($name:ident [$($arg:ident: $type:ty),+] $en:literal $ko:literal) => {
        #[must_use]
        pub fn $name(self, $($arg: $type),+) -> String {
            match self {
                Self::En => format!($en),
                Self::Ko => format!($ko),
            }
        }
    };
}

macro_rules! texts {
    ($($name:ident $(($($arg:ident: $type:ty),+))? $en:literal $ko:literal)+) => {
        /// The texts, by name. Arguments are written into them; templates escape the whole.
        impl Lang {
            $(text! { $name [$($($arg: $type),+)?] $en $ko })+
        }
    };
}

texts! {
    code "en" "ko"
    product "Image job dispatcher" "이미지 작업 디스패처"
    skip "Skip to content" "본문으로 건너뛰기"
    navigation "Sections" "메뉴"
    sign_in "Sign in" "로그인"
    sign_out "Sign out" "로그아웃"
    signed_in_as(name: &str, role: &str) "Signed in as {name}, {role}" "{name}({role})로 로그인함"
    database "Database" "데이터베이스"
    utc "All times are UTC" "모든 시각은 UTC"
    version(v: &str) "Version {v}" "버전 {v}"

    milliseconds(n: u64) "{n} ms" "{n}ms"
    seconds(n: &str) "{n} s" "{n}초"
    minutes(n: u64) "{n} min" "{n}분"
    hours(n: u64) "{n} h" "{n}시간"
    days(n: u64) "{n} d" "{n}일"
    a_second(n: &str) "{n}/s" "{n}건/초"
    none "none" "없음"
    unknown "unknown" "알 수 없음"

    nav_overview "Overview" "개요"
    nav_messages "Messages" "메시지"
    nav_dead "Dead letters" "데드 레터"
    nav_replays "Replays" "재전송"
    nav_audits "Audits" "감사"
    nav_control "Pause & retention" "일시 중지·보존"
    nav_log "Operators’ log" "운영 기록"
    nav_settings "Settings" "설정"

    live_pause "Pause updates" "갱신 멈추기"
    live_resume "Resume updates" "갱신 계속"
    as_of(time: &str) "As of {time}" "{time} 기준"

    v_starting "Taking a first look" "처음 확인하는 중"
    v_starting_why "The first numbers arrive within two seconds." "2초 안에 첫 수치가 나옵니다."
    v_database "PostgreSQL does not answer" "PostgreSQL이 응답하지 않음"
    v_database_why
        "Jobs are refused with 503 until it does; nothing that was accepted is lost. What is shown below is old."
        "응답할 때까지 작업 요청은 503으로 거절됩니다. 이미 접수된 것은 잃지 않습니다. 아래 수치는 이전 값입니다."
    v_paused "Publishing is paused" "발행이 일시 중지됨"
    v_paused_why "Jobs are accepted and wait. Nothing is sent to Kafka until somebody resumes." "작업은 접수되어 대기합니다. 재개할 때까지 Kafka로 보내지 않습니다."
    v_no_leader "No replica leads" "리더가 없음"
    v_no_leader_why
        "Jobs are accepted and wait. Another replica takes over once the last lease has ended, within seconds; if none does, no relay is running or PostgreSQL refuses it."
        "작업은 접수되어 대기합니다. 마지막 리스가 끝나면 몇 초 안에 다른 복제본이 이어받습니다. 그렇지 않으면 릴레이가 실행 중이 아니거나 PostgreSQL이 거절한 것입니다."
    v_kafka "Kafka does not acknowledge" "Kafka가 확인 응답을 보내지 않음"
    v_kafka_why
        "Jobs are accepted and wait in PostgreSQL. They are sent, in order, when Kafka is back; no message is dead-lettered for it."
        "작업은 접수되어 PostgreSQL에서 대기합니다. Kafka가 돌아오면 순서대로 전송되며, 이 때문에 데드 레터가 되는 메시지는 없습니다."
    v_stuck "Messages wait and none of them moves" "메시지가 대기 중이며 진행되지 않음"
    v_stuck_why
        "Kafka answers and somebody leads, so look at the leader’s log, and for a long transaction in PostgreSQL."
        "Kafka는 응답하고 리더도 있습니다. 리더의 로그와 PostgreSQL의 긴 트랜잭션을 확인하세요."
    v_draining "Draining the backlog" "밀린 메시지를 보내는 중"
    v_draining_why "Messages that waited are being sent, in order. Nothing has to be done." "밀린 메시지를 순서대로 보내고 있습니다. 할 일은 없습니다."
    v_growing "The backlog does not shrink" "밀린 메시지가 줄지 않음"
    v_growing_why "More arrives than is sent. It is not lost; look at what slows Kafka or PostgreSQL." "보내는 것보다 더 많이 들어옵니다. 잃지는 않습니다. Kafka나 PostgreSQL이 느린 이유를 확인하세요."
    v_missing "Kafka has lost records that it had acknowledged" "Kafka가 확인 응답한 레코드를 잃어버림"
    v_missing_why "The outbox still has them: replay what the audit found missing, then audit again." "아웃박스에는 남아 있습니다. 감사에서 누락된 것을 재전송한 뒤 다시 감사하세요."
    v_unseen "This replica cannot reach Kafka" "이 복제본에서 Kafka에 연결할 수 없음"
    v_unseen_why "Nothing old waits. If it goes on, new messages will." "오래 대기 중인 메시지는 없습니다. 계속되면 새 메시지가 대기하게 됩니다."
    v_dead(n: &str) "Dead letters wait for a decision: {n}" "결정을 기다리는 데드 레터: {n}건"
    v_dead_why "Kafka refused these for what they are. Everything else goes on." "Kafka가 메시지 자체의 문제로 거절했습니다. 나머지는 정상입니다."
    v_flowing "All is well" "정상"
    v_flowing_why "Messages are sent as they come." "메시지가 들어오는 대로 전송됩니다."
    reason_given(reason: &str) "Reason: {reason}" "사유: {reason}"
    kafka_said(said: &str) "Kafka: {said}" "Kafka: {said}"

    lost "Nothing accepted is lost" "접수된 것은 잃지 않음"
    lost_why(published: &str, pending: &str, dead: &str)
        "Every accepted job is in Kafka ({published} messages), waits here ({pending}), or is a dead letter ({dead} undecided)."
        "접수된 모든 작업은 Kafka에 있거나({published}건), 여기서 대기하거나({pending}건), 데드 레터입니다(미결정 {dead}건)."

    f_waiting "Waiting" "대기"
    f_waiting_note "in PostgreSQL" "PostgreSQL에서"
    f_oldest "Oldest waits" "가장 오래된 대기"
    f_oldest_none "nothing waits" "대기 없음"
    f_gone "Gone in" "소진까지"
    f_gone_note "as in the last 10 s" "최근 10초 기준"
    f_gone_nothing "nothing waits" "대기 없음"
    f_gone_not "not shrinking" "줄지 않음"
    f_gone_halted "halted" "멈춤"
    f_about(span: &str) "≈ {span}" "약 {span}"
    f_in "In" "유입"
    f_in_note "accepted and replayed" "접수·재전송"
    f_out "Out" "발행"
    f_out_note "acknowledged by Kafka" "Kafka 확인"
    f_latency "Accept to receipt" "접수→확인"
    f_latency_note "median · p99" "중앙값 · p99"
    f_dead "Dead letters" "데드 레터"
    f_dead_note "undecided" "미결정"

    dependencies "Dependencies" "의존 서비스"
    d_answers "answers" "응답함"
    d_silent "does not answer" "응답 없음"
    d_since(span: &str) "for {span}" "{span}째"
    d_leader "Leader" "리더"
    d_leads "leads" "리더 있음"
    d_leader_here(name: &str) "{name} (this replica)" "{name}(이 복제본)"
    d_redis_harmless "Only makes reading faster: nothing waits for it." "조회를 빠르게 할 뿐이며, 대기하는 것은 없습니다."

    charts "Charts" "차트"
    span_hour "1 hour" "1시간"
    span_day "24 hours" "24시간"
    chart_rates "Messages a second" "초당 메시지"
    chart_oldest "Age of the oldest waiting message" "가장 오래된 대기 메시지의 나이"
    chart_gone "Forecast: until what waits is gone" "예측: 대기가 소진될 때까지"
    chart_latency "From acceptance to receipt" "접수부터 확인까지"
    chart_numbers "The numbers behind the charts" "차트의 수치"
    chart_empty "No points yet: one every ten seconds." "아직 점이 없습니다. 10초마다 하나씩 생깁니다."
    chart_hint "Kept in this process: since it started, at most. Rates are means, ages and p99 the worst of each step." "이 프로세스가 시작된 뒤의 값입니다. 비율은 평균, 나이와 p99는 각 구간의 최댓값입니다."
    col_time "Time" "시각"

    running_replays "Replays under way" "진행 중인 재전송"
    dead_groups "Dead letters by cause" "원인별 데드 레터"

    m_title "Messages" "메시지"
    m_filter "Filter" "필터"
    m_state "State" "상태"
    m_any "any" "전체"
    m_pending "pending" "대기"
    m_published "published" "발행됨"
    m_dead "dead" "데드"
    m_job "Job" "작업"
    m_draft "Event draft (Kafka key)" "이벤트 초안(Kafka 키)"
    m_from "From (UTC)" "시작(UTC)"
    m_to "Before (UTC)" "이전(UTC)"
    m_go_to "Outbox id or job" "아웃박스 ID 또는 작업"
    m_apply "Apply" "적용"
    m_reset "Reset" "초기화"
    m_open "Open" "열기"
    m_id "Id" "ID"
    m_written "Written" "기록 시각"
    m_took "Took" "소요"
    m_key "Key" "키"
    m_where "Partition / offset" "파티션 / 오프셋"
    m_replay "replay" "재전송"
    m_none "No message matches." "일치하는 메시지가 없습니다."
    m_older "Older" "이전 것"
    m_newest "Newest" "최신"
    m_count(n: &str) "{n} match" "{n}건 일치"
    m_count_at_least(n: &str) "at least {n} match" "{n}건 이상 일치"
    m_bounded "Stopped after looking at as many messages as one page may. Go on with “Older”, or narrow it by time." "한 페이지에서 볼 수 있는 만큼 살펴본 뒤 멈췄습니다. “이전 것”으로 계속하거나 시간으로 좁히세요."
    m_replay_these "Replay what this filter selects" "이 필터의 대상을 재전송"
    m_export "Export all of it" "전체 내보내기"
    m_bad_filter(what: &str) "This filter cannot be used: {what}" "사용할 수 없는 필터: {what}"

    o_title(id: i64) "Message {id}" "메시지 {id}"
    o_life "Life" "이력"
    o_accepted "Job accepted" "작업 접수"
    o_written "Row written by a replay" "재전송이 행을 기록"
    o_published "In Kafka" "Kafka에 기록"
    o_published_at(partition: i32, offset: &str) "partition {partition}, offset {offset}" "파티션 {partition}, 오프셋 {offset}"
    o_no_receipt "found published without its receipt" "확인 기록 없이 발행된 것을 발견"
    o_pending "Waits to be sent" "전송 대기"
    o_pending_why "An outage is the relay’s, not the message’s: see the overview." "장애는 메시지가 아니라 릴레이의 것입니다. 개요를 보세요."
    o_died "Refused for good" "최종 거절"
    o_retried(by: &str) "Retried by {by}" "{by}이(가) 재시도"
    o_discarded(by: &str) "Discarded by {by}" "{by}이(가) 폐기"
    o_answered(status: &str) "Content Service answered {status}" "콘텐츠 서비스 응답: {status}"
    o_unanswered "No answer of the Content Service yet" "콘텐츠 서비스의 응답이 아직 없음"
    o_images "Images" "이미지"
    o_identity "Identity" "식별"
    o_event_id "Event id (ce_id)" "이벤트 ID(ce_id)"
    o_owner "Owner" "소유자"
    o_topic "Topic" "토픽"
    o_size "Payload size" "페이로드 크기"
    o_payload "Payload" "페이로드"
    o_headers "Headers" "헤더"
    o_header "Header" "헤더"
    o_value "Value" "값"
    o_error "Error" "오류"
    o_replays "Replays of this message" "이 메시지의 재전송"
    o_replay_of(id: i64) "Repeats message {id}" "메시지 {id}의 재전송"
    o_by_replay "Written by replay" "기록한 재전송"
    o_same_key "Same key" "같은 키"
    o_previous "Previous of this key" "이 키의 이전 메시지"
    o_next "Next of this key" "이 키의 다음 메시지"
    o_none_near(n: &str) "none within {n} ids" "{n}개 ID 안에 없음"
    o_replay_this "Replay this message" "이 메시지 재전송"
    o_missing(id: &str) "There is no message {id} in the outbox; retention may have dropped it." "아웃박스에 메시지 {id}이(가) 없습니다. 보존 기간이 지나 삭제되었을 수 있습니다."

    x_title "Dead letters" "데드 레터"
    x_none "No dead letter waits for a decision." "결정을 기다리는 데드 레터가 없습니다."
    x_what "Messages that Kafka, or the size check against the topic’s limit, refuses for what they are. Mend the cause first; a retry is a new message with the same event id." "Kafka 또는 토픽 크기 제한 검사가 메시지 자체의 문제로 거절한 것입니다. 먼저 원인을 고치세요. 재시도는 같은 이벤트 ID를 가진 새 메시지입니다."
    x_class "Cause" "원인"
    x_example "For example" "예"
    x_all "All causes" "모든 원인"
    x_undecided "undecided only" "미결정만"
    x_resolved_too "decided ones too" "결정된 것도 포함"
    x_died "Died" "거절 시각"
    x_decision "Decision" "결정"
    x_retried "retried" "재시도됨"
    x_discarded "discarded" "폐기됨"
    x_undecided_one "undecided" "미결정"
    x_select(id: &i64) "Select message {id}" "메시지 {id} 선택"
    x_decide "Decide" "결정"
    x_reason "Reason (recorded)" "사유(기록됨)"
    x_retry_selected "Retry selected" "선택 재시도"
    x_discard_selected "Discard selected" "선택 폐기"
    x_retry_group(n: &str) "Retry all {n} of this cause" "이 원인 {n}건 모두 재시도"
    x_discard_group(n: &str) "Discard all {n} of this cause" "이 원인 {n}건 모두 폐기"
    x_discard_warning "Discarded messages are never sent." "폐기된 메시지는 다시 보내지 않습니다."
    x_may_not "Your role may look and not decide." "현재 역할은 조회만 할 수 있습니다."

    r_title "Replays" "재전송"
    r_what "Messages written to the outbox again with the same event id, so that consumers recognise them. Recorded, paced, and stopped whenever you like." "같은 이벤트 ID로 아웃박스에 다시 기록되는 메시지로, 소비자가 알아볼 수 있습니다. 기록되고 속도가 조절되며 언제든 멈출 수 있습니다."
    r_new "New replay" "새 재전송"
    r_none "No replay was ever made." "재전송이 아직 없습니다."
    r_progress "Progress" "진행"
    r_rate "Rate" "속도"
    r_by "By" "요청자"
    r_reason "Reason" "사유"
    r_created "Created" "생성"
    r_running "running" "진행 중"
    r_paused "paused" "일시 중지"
    r_cancelled "cancelled" "취소됨"
    r_done "done" "완료"
    r_of(done: &str, all: &str) "{done} of {all}" "{all}건 중 {done}건"
    r_eta(span: &str) "about {span} left" "약 {span} 남음"
    r_relay_paused "The relay is paused: replays wait with it." "릴레이가 일시 중지되어 재전송도 대기합니다."
    r_one "Replay" "재전송"
    r_ids "Outbox ids" "아웃박스 ID"
    r_ids_hint "separated by spaces or commas" "공백이나 쉼표로 구분"
    r_jobs "Jobs" "작업"
    r_or_window "or a selection" "또는 조건"
    r_key "Event draft (Kafka key)" "이벤트 초안(Kafka 키)"
    r_user "User" "사용자"
    r_class "Dead letters of this cause" "이 원인의 데드 레터"
    r_no_class "not by cause" "원인으로 고르지 않음"
    r_dry_run "Dry run" "미리 보기"
    r_preview "Dry run: nothing was started" "미리 보기: 시작된 것 없음"
    r_would(count: &str, keys: &str) "{count} messages of {keys} event drafts" "이벤트 초안 {keys}개의 메시지 {count}건"
    r_nothing "Nothing matches: no message would be sent." "일치하는 것이 없습니다. 보낼 메시지가 없습니다."
    r_oldest "Oldest" "가장 오래된 것"
    r_newest "Newest" "가장 최근"
    r_dead_among(n: &str) "{n} of them are dead letters, which count as retried from then on." "그중 {n}건은 데드 레터이며, 시작하면 재시도된 것으로 처리됩니다."
    r_sample "Sample" "표본"
    r_takes(span: &str) "At this rate it takes {span}." "이 속도로 {span} 걸립니다."
    w_later(n: &str) "{n} event drafts have later messages: their consumers see the older content after the newer." "이벤트 초안 {n}개에 이후 메시지가 있습니다. 소비자는 새 내용 뒤에 옛 내용을 보게 됩니다."
    w_later_bounded(n: &str, id: &str) "{n} event drafts or more have later messages (looked at up to {id}): their consumers see the older content after the newer." "이벤트 초안 {n}개 이상에 이후 메시지가 있습니다({id}까지 확인). 소비자는 새 내용 뒤에 옛 내용을 보게 됩니다."
    w_newer_draft(n: &str) "{n} event drafts were edited since: the content of that time is sent, not today’s." "이벤트 초안 {n}개가 이후 수정되었습니다. 현재가 아니라 당시의 내용이 전송됩니다."
    w_pending(n: &str) "{n} of the messages have not been sent yet: they will be sent twice." "그중 {n}건은 아직 전송되지 않았습니다. 두 번 전송됩니다."
    warning "Warning" "주의"
    r_confirm(n: &i64) "Type {n} to confirm" "확인하려면 {n}을(를) 입력"
    r_start "Start the replay" "재전송 시작"
    r_rate_hint "messages a second" "초당 메시지"
    r_pause "Pause" "일시 중지"
    r_resume "Resume" "재개"
    r_cancel "Cancel for good" "완전히 취소"
    r_cancel_hint "What was sent stays sent." "이미 전송된 것은 그대로입니다."
    r_operation "Operation id" "작업 이름"
    r_selection "Selection" "선택 조건"
    r_bounds "Ids" "ID 범위"
    r_changed "Last change" "마지막 변경"
    r_wrong_confirmation "The number that was typed is not the number of messages that match now: nothing was started." "입력한 수가 지금 일치하는 메시지 수와 다릅니다. 시작된 것은 없습니다."
    r_messages "Messages that it has written" "기록한 메시지"
    x_told_retried(n: &str) "{n} sent again." "{n}건을 다시 보냈습니다."
    x_told_discarded(n: &str) "{n} discarded." "{n}건을 폐기했습니다."
    x_told_none "Nothing was selected: nothing was changed." "선택한 것이 없습니다. 변경된 것은 없습니다."
    r_no_audit "not by audit" "감사로 고르지 않음"
    r_audit(at: &str, n: &str) "{at}: {n} missing" "{at}: 누락 {n}건"
    r_missing_of "What this audit found missing" "이 감사에서 누락된 것"
    r_missing "There is no such replay." "그런 재전송이 없습니다."

    a_title "Audits" "감사"
    a_one "Audit" "감사"
    a_what "The topic compared with the receipts: is everything in Kafka that it has acknowledged, and nothing else? Made by the command `dispatcher audit`; the last hundred are remembered." "토픽과 수신 확인 기록의 비교입니다. Kafka가 확인한 것이 모두 있고 다른 것은 없는지 봅니다. `dispatcher audit` 명령으로 실행하며 최근 100건을 기억합니다."
    a_none "No audit was made yet." "감사가 아직 없습니다."
    a_forgotten "There is no such audit: the last hundred are remembered." "그런 감사가 없습니다. 최근 100건만 기억합니다."
    a_made "Made" "실행 시각"
    a_finished "Finished" "완료"
    a_result "Result" "결과"
    a_clean "nothing wrong" "이상 없음"
    a_wrong "something wrong" "이상 있음"
    a_missing "Missing" "누락"
    a_repeated "Repeated" "중복"
    a_foreign "Foreign" "외부"
    a_range "Messages written" "메시지 기록 시각"
    a_whole "all that is retained" "보존된 전체"
    a_cluster "Cluster" "클러스터"
    a_counts "Numbers" "수치"
    a_number "Number" "건수"
    a_counted "What it counts" "세는 대상"
    a_of_missing "missing: acknowledged by Kafka, and nowhere in the topic" "누락: Kafka가 확인했으나 토픽에 없음"
    a_of_repeated "repeated: records of an outbox id that has one already" "중복: 이미 레코드가 있는 아웃박스 ID의 레코드"
    a_of_foreign "foreign: records that no row of the outbox explains" "외부: 아웃박스의 어떤 행으로도 설명되지 않는 레코드"
    a_of_receipts "receipts compared" "비교한 수신 확인"
    a_of_records "records of the topic compared" "비교한 토픽 레코드"
    a_of_in_place "in place: the record is where its receipt says" "제자리: 레코드가 확인 기록의 위치에 있음"
    a_of_made_good "made good: lost, with a replay that is there or on its way" "복구됨: 잃었으나 재전송이 있거나 진행 중"
    a_of_expired "expired: gone, as the topic’s retention allows" "만료: 토픽 보존 기간에 따라 삭제됨"
    a_of_forgotten "forgotten: records whose rows retention has dropped" "잊힘: 행이 보존 기간 뒤 삭제된 레코드"
    a_more(n: &str) "The first {n} are shown; the admin API has the first thousand." "처음 {n}건만 표시합니다. 관리 API에는 처음 1,000건이 있습니다."
    a_send "Send what is missing again" "누락된 것을 다시 보내기"
    a_sent "What is missing was given to this replay; audit again when it is done" "누락된 것을 이 재전송이 보냅니다. 완료되면 다시 감사하세요"
    a_told_missing(at: &str, n: &str) "The audit of {at} found {n} messages missing in Kafka. They are in PostgreSQL and can be sent again." "{at}의 감사에서 Kafka에 누락된 메시지 {n}건을 발견했습니다. PostgreSQL에 있으며 다시 보낼 수 있습니다."
    a_told_old(span: &str) "The last audit was {span} ago: whether Kafka still has what it acknowledged is not known." "마지막 감사는 {span} 전입니다. Kafka가 확인한 것을 아직 가지고 있는지 알 수 없습니다."
    a_told_none "No audit yet: whether Kafka still has what it acknowledged is not known." "아직 감사가 없습니다. Kafka가 확인한 것을 아직 가지고 있는지 알 수 없습니다."

    c_title "Pause and retention" "일시 중지와 보존"
    c_running "The relay is not paused." "릴레이는 일시 중지되지 않았습니다."
    c_pause "Pause publishing" "발행 일시 중지"
    c_pause_what "Nothing new is handed to Kafka from about a second later. Accepting goes on; the backlog grows in PostgreSQL." "약 1초 뒤부터 Kafka로 보내지 않습니다. 접수는 계속되며 PostgreSQL에 쌓입니다."
    c_resume "Resume publishing" "발행 재개"
    c_paused_by(by: &str, span: &str) "Paused by {by} for {span}" "{by}이(가) {span}째 일시 중지"
    c_since "Since" "시작"
    c_retention "Retention" "보존"
    c_retention_what(span: &str, jobs: &str) "A leader drops partitions hourly once all their messages are settled, none of their dead letters is undecided, and they are older than {span}; those of jobs, {jobs}." "리더는 매시간, 모든 메시지가 처리되고 미결정 데드 레터가 없으며 {span}보다 오래된 파티션을 삭제합니다. 작업 파티션은 {jobs}입니다."
    c_retain "Drop now what is old" "오래된 것을 지금 삭제"
    c_retain_admin "Dropping it before that needs the role admin." "그 전에 삭제하려면 admin 역할이 필요합니다."
    c_plan "Dry run: nothing was dropped" "미리 보기: 삭제된 것 없음"
    c_plan_none "Nothing is settled and old enough to go." "처리가 끝나고 삭제할 만큼 오래된 것이 없습니다."
    c_plan_rows "Rows" "행"
    c_plan_for_good "What is dropped is gone for good: a dropped message cannot be shown or sent again, and a dropped job is not found." "삭제하면 되돌릴 수 없습니다. 삭제된 메시지는 조회하거나 다시 보낼 수 없고, 삭제된 작업은 찾을 수 없습니다."
    c_plan_confirm "Type drop to confirm" "확인하려면 drop을 입력"
    c_drop "Drop it" "삭제"
    c_not_dropped "The word was not typed, or something else would go by now: nothing was dropped." "확인 단어가 입력되지 않았거나 삭제 대상이 바뀌었습니다. 삭제된 것은 없습니다."
    c_dropped(partitions: usize, keys: &str) "Dropped. Partitions: {partitions}; idempotency keys: {keys}." "삭제했습니다. 파티션 {partitions}개, 멱등성 키 {keys}개."
    c_partition "Partition" "파티션"
    c_bounds "Bounds" "범위"
    c_rows "Rows (estimate)" "행(추정)"
    c_size "Size" "크기"

    l_title "Operators’ log" "운영 기록"
    l_none "Nobody has changed anything yet." "아직 변경한 사람이 없습니다."
    l_what "Who did what, when and why: with the console, the admin API or a command." "누가 무엇을 언제 왜 했는지의 기록. 콘솔, 관리 API, 명령 모두 포함합니다."
    l_who "Who" "누가"
    l_act "Act" "행위"
    l_subject "What" "대상"
    l_via "With" "경로"

    s_title "Settings" "설정"
    s_what "As this process uses them; secrets are hidden. Changed by flags, environment or file, and a restart." "이 프로세스가 사용하는 값이며 비밀은 숨깁니다. 플래그, 환경 변수, 파일로 바꾸고 다시 시작하세요."
    s_key "Key" "키"
    s_source "From" "출처"

    e_database "PostgreSQL does not answer, so this page cannot be made. The overview can." "PostgreSQL이 응답하지 않아 이 페이지를 만들 수 없습니다. 개요는 볼 수 있습니다."
    e_title "This did not work" "처리하지 못함"
    e_not_found "There is no such page." "그런 페이지가 없습니다."

    login_title "Sign in to the operators’ console" "운영 콘솔 로그인"
    login_token "Token" "토큰"
    login_hint "A JWT with the role viewer, operator or admin, such as `dispatcher token --role operator` prints." "viewer, operator, admin 역할의 JWT입니다. 예: `dispatcher token --role operator`의 출력."
    role_viewer "viewer" "조회자"
    role_operator "operator" "운영자"
    role_admin "admin" "관리자"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_cookies_then_the_browsers_then_english() {
        for (accept, cookie, expected) in [
            ("", "", Lang::En),
            ("ko", "", Lang::Ko),
            ("ko-KR,ko;q=0.9,en;q=0.8", "", Lang::Ko),
            ("en-US,en;q=0.9,ko;q=0.8", "", Lang::En),
            ("de,ko;q=0.3", "", Lang::Ko),
            ("fr, ko;q=0, en;q=0.1", "", Lang::En),
            ("ko;q=nonsense", "", Lang::En),
            ("en", "other=1; console_lang=ko", Lang::Ko),
            ("ko", "console_lang=klingon", Lang::Ko),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, accept.parse().expect("a value"));
            headers.insert(header::COOKIE, cookie.parse().expect("a value"));
            assert_eq!(Lang::of(&headers), expected, "{accept:?} {cookie:?}");
        }
    }
}
