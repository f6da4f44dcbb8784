/// The files that pages are made of, inside the binary, so that one file is all there is to install.
package enum WebFile {
    package static var styleSheet: [UInt8] { PackageResources.style_css }
    package static var script: [UInt8] { PackageResources.script_js }
    package static var icon: [UInt8] { PackageResources.icon_svg }

    /// The message catalogue of a language by its code, as JSON: one object of texts.
    package static let messages: [String: String] = [
        "en": text(PackageResources.messages_en_json), "ja": text(PackageResources.messages_ja_json),
    ]

    /// Mustache templates by the name that others include them by.
    package static let templates: [String: String] = [
        "access": text(PackageResources.access_mustache), "acts": text(PackageResources.acts_mustache),
        "again": text(PackageResources.again_mustache), "audit": text(PackageResources.audit_mustache),
        "badge": text(PackageResources.badge_mustache), "csrf": text(PackageResources.csrf_mustache),
        "export": text(PackageResources.export_mustache), "fault": text(PackageResources.fault_mustache),
        "field": text(PackageResources.field_mustache), "form-page": text(PackageResources.form_page_mustache),
        "layout": text(PackageResources.layout_mustache), "mark-good": text(PackageResources.mark_good_mustache),
        "notices": text(PackageResources.notices_mustache),
        "passport": text(PackageResources.passport_mustache),
        "password": text(PackageResources.password_mustache), "problem": text(PackageResources.problem_mustache),
        "reasons": text(PackageResources.reasons_mustache), "record": text(PackageResources.record_mustache),
        "release": text(PackageResources.release_mustache), "request": text(PackageResources.request_mustache),
        "requests": text(PackageResources.requests_mustache),
        "review-form": text(PackageResources.review_form_mustache),
        "reviews": text(PackageResources.reviews_mustache), "run": text(PackageResources.run_mustache),
        "runs": text(PackageResources.runs_mustache), "sign-in": text(PackageResources.sign_in_mustache),
        "time": text(PackageResources.time_mustache), "timeline": text(PackageResources.timeline_mustache),
        "votes": text(PackageResources.votes_mustache),
        "policies": text(PackageResources.policies_mustache),
        "policy-bundle": text(PackageResources.policy_bundle_mustache),
        "policy-cedar": text(PackageResources.policy_cedar_mustache),
        "policy-changes": text(PackageResources.policy_changes_mustache),
        "policy-comparison": text(PackageResources.policy_comparison_mustache),
        "policy-decide": text(PackageResources.policy_decide_mustache),
        "policy-file": text(PackageResources.policy_file_mustache),
        "policy-files": text(PackageResources.policy_files_mustache),
        "policy-history": text(PackageResources.policy_history_mustache),
        "policy-marks": text(PackageResources.policy_marks_mustache),
        "policy-matrix": text(PackageResources.policy_matrix_mustache),
        "policy-propose": text(PackageResources.policy_propose_mustache),
        "policy-replay": text(PackageResources.policy_replay_mustache),
        "policy-row": text(PackageResources.policy_row_mustache),
        "policy-tabs": text(PackageResources.policy_tabs_mustache),
    ]

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
